"""Checks of single cells of the input. A cell that fails one makes its row an error, and the job goes on."""

from typing import Any

from schemas.emotions import parse_emotions
from schemas.rows import RowError


def text_cell(values: dict[str, Any], field: str) -> str:
    """Returns the field's text.

    Raises:
        RowError: the cell is null, not text, blank, not valid Unicode, or has a NUL character.
    """
    text = text_or_blank_cell(values, field)
    if not text:
        raise RowError(f"{field} is null" if values.get(field) is None else f"{field} is blank")
    return text


def text_or_blank_cell(values: dict[str, Any], field: str) -> str:
    """Returns the field's text; "" if the cell is absent, null or blank.

    Raises:
        RowError: the cell is not text, not valid Unicode, or has a NUL character.
    """
    value = values.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{field} is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{field} is not valid Unicode") from None
    if "\0" in value:
        raise RowError(f"{field} has a NUL character")
    return value if value.strip() else ""


def labels_cell(values: dict[str, Any], field: str) -> list[str]:
    """Returns the field's emotions; see `parse_emotions`.

    Raises:
        RowError: the cell is null, has no label, or one that GoEmotions does not have.
    """
    value = values.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowError(f"{field} is null" if value is None else f"{field} is blank")
    try:
        return parse_emotions(value)
    except ValueError as error:
        raise RowError(f"{field} {error}") from None


def first_label(values: dict[str, Any], field: str) -> str:
    """Returns the first of the field's emotions; "" where `labels_cell` refuses the cell."""
    try:
        return labels_cell(values, field)[0]
    except RowError:
        return ""

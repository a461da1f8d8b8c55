"""Checks of single cells of the input. A cell that fails one makes its row an error, and the job goes on."""

from typing import Any

from schemas.emotions import EMOTIONS
from schemas.rows import RowError
from schemas.text import shorten


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
    """Returns the field's emotions, of which the cell has one label or a list.

    Raises:
        RowError: the cell has no label, or one that GoEmotions does not have.
    """
    labels = values.get(field)
    labels = labels if isinstance(labels, list) else [text_cell(values, field)]
    if not labels:
        raise RowError(f"{field} has no label")
    for label in labels:
        if label not in EMOTIONS:
            raise RowError(f"{field} {shorten(repr(label))} is not one of the 28 GoEmotions labels")
    return labels

"""What a cell of the input must be; anything else sends its row to errors/, and the job goes on."""

from typing import Any

from schemas.rows import RowError


def text_cell(values: dict[str, Any], field: str) -> str:
    """The field's text.

    Raises:
        RowError: the cell is null, not text, blank, or no valid Unicode.
    """
    value = values.get(field)
    if value is None:
        raise RowError(f"{field} is null")
    if not isinstance(value, str):
        raise RowError(f"{field} is {type(value).__name__}, not text")
    if not value.strip():
        raise RowError(f"{field} is blank")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{field} is not valid Unicode") from None
    return value

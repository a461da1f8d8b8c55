"""Texts of unknown origin (data, models, libraries' errors), made safe to print and short enough for one line; and
amounts."""

import json
from typing import Any

_MAX_CHARACTERS = 200
# Joiners inside emoji and some scripts are invisible and do no harm.
_JOINERS = "\u200c\u200d"


def shorten(value: Any, max_characters: int = _MAX_CHARACTERS) -> str:
    """Returns a value as text for one line of an error: printable characters alone, so that it moves no cursor.

    Args:
        value: a text, or any value whose `repr` is to be shown.
        max_characters: number of characters to keep; "..." follows where some are cut off.
    """
    text = repr(value) if not isinstance(value, str) else value
    text = text if len(text) <= max_characters else text[:max_characters] + "..."
    return text if text.isprintable() else repr(text)[1:-1]


def plural(number: int, noun: str) -> str:
    """Formats a number of things: `1 row`, `1,200 rows`. The noun is one whose plural ends with `s`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """Returns a text without control characters and direction marks; its line ends stay."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("".join(map(_printable_character, line)) for line in lines)


def format_amount(value: float) -> str:
    """Formats a number: whole and large ones as `1,873`, others with four digits."""
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.4g}"


def wide_encoding(head: bytes) -> str:
    """Returns "UTF-16" or "UTF-32" where a file begins as such a text does, with a mark or without; "" for any other.

    Args:
        head: first bytes of the file, at least four if it has as many.
    """
    encoding = json.detect_encoding(head).upper()
    return encoding[:6] if encoding.startswith(("UTF-16", "UTF-32")) else ""


def _printable_character(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else "\ufffd"


def clock(seconds: float) -> str:
    """Formats a duration as `03:10`, and from an hour on as `1:03:10`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"

"""Texts from data, models and errors as a terminal, a page or one line of an error may show them."""

from typing import Any

_LONGEST_VALUE_SHOWN = 200


# Joiners inside emoji and some scripts are invisible and do no harm.
_JOINERS = "\u200c\u200d"


def shorten(value: Any, most: int = _LONGEST_VALUE_SHOWN) -> str:
    """A value on one line of an error: whatever is in a file, the error fits on one screen, and moves no cursor.

    Args:
        most: characters of it to show.
    """
    text = repr(value) if not isinstance(value, str) else value
    text = text if len(text) <= most else text[:most] + "..."
    return text if text.isprintable() else repr(text)[1:-1]


def printable(text: str) -> str:
    """Text that moves no cursor and turns no line round, in one or more lines."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("".join(map(_printable_character, line)) for line in lines)


def _printable_character(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else "\ufffd"

"""Texts from data and models as a terminal or a page may show them."""

# Joiners inside emoji and some scripts are invisible and do no harm.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Text that moves no cursor and turns no line round, in one or more lines."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("".join(map(_printable_character, line)) for line in lines)


def _printable_character(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else "\ufffd"

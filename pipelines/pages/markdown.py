"""Values in Markdown: a file's name or an error is shown as plain text, whatever characters it has.

Invariant: no value ends its line, its cell or its block, and none becomes HTML, a link or markup.
"""

import html
import re
from typing import Any

import yaml

from schemas.text import printable

# Characters that may begin markup in Markdown, besides those that HTML escapes.
_MARKUP = re.compile(r"([\\`*_\[\]|~$#])")


def escaped(text: str) -> str:
    """Escapes text for a heading, a list or a cell of a table."""
    return _MARKUP.sub(r"\\\1", html.escape(printable(text), quote=False)).replace("\n", "<br>")


def code(text: str, in_table: bool = False) -> str:
    """Returns text as code in a line.

    Args:
        in_table: whether the line is a row of a table, where `|` would end the cell also in code.
    """
    line = printable(text).replace("\n", "\ufffd")
    if in_table:
        line = line.replace("|", r"\|")
    fence = _fence(line, 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def yaml_block(value: Any) -> str:
    """Returns a value as a block of YAML."""
    return code_block(yaml.safe_dump(value, sort_keys=False).strip(), "yaml")


def code_block(text: str, language: str = "") -> str:
    """Returns text as a block of code."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _fence(text: str, length: int) -> str:
    """Returns backticks that end a code which no backticks inside it end."""
    return "`" * max(length, 1 + max(map(len, re.findall("`+", text)), default=0))

"""Tables of figures with their intervals, for the terminal and in Markdown, in one layout."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from eval.intervals import Difference, Rate

# What may begin markup in Markdown; names come from job files, and openings from models.
_MARKUP = re.compile(r"([\\`*_\[\]|~$#<>&])")

_LEAST_P = 0.001


@dataclass(frozen=True)
class Figure:
    """A figure as it is shown, and its interval; "" where it has none."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """A table: a title, a header, rows of as many cells, and what is to be said of it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Figure]]
    note: str = ""


def percent(rate: Rate | None, decimals: int = 1) -> Figure:
    """`94.8 (92.3 to 96.6)`; a dash where there is no rate."""
    if rate is None:
        return Figure("-")
    low, high = (f"{100 * bound:.{decimals}f}" for bound in (rate.low, rate.high))
    return Figure(f"{100 * rate.rate:.{decimals}f}", f"{low} to {high}")


def points(difference: Difference) -> Figure:
    """A difference of rates in percentage points."""
    value = f"{100 * difference.difference:+.1f}"
    if difference.low is None or difference.high is None:
        return Figure(value)
    return Figure(value, f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}")


def p_value(value: float) -> str:
    """As it is shown: 0.012, or <0.001."""
    return f"{value:.3f}" if value >= _LEAST_P else f"<{_LEAST_P}"


def markdown(tables: Sequence[Table]) -> str:
    """The tables one after the other, each under its title."""
    return "\n".join(line for table in tables for line in _markdown_lines(table))


def rendered(tables: Sequence[Table]) -> Group:
    """The same for a terminal; intervals stand below their figures, so that models fit beside each other."""
    return Group(*(part for table in tables for part in _parts(table)))


def _markdown_lines(table: Table) -> Sequence[str]:
    rows = [[_markdown(f"{c.value} ({c.interval})" if isinstance(c, Figure) and c.interval else _plain(c)) for c in row]
            for row in table.rows]  # fmt: skip
    header = [_markdown(cell) for cell in table.header]
    aligned = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, aligned, *rows)]
    return [f"## {_markdown(table.title)}", "", *lines, "", *([_markdown(table.note), ""] if table.note else [])]


def _parts(table: Table) -> Sequence[RichTable | Text]:
    shown = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, cell in enumerate(table.header):
        shown.add_column(Text(cell, style="bold"), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(_cell(cell) for cell in row))
    note = [Text(table.note, style="dim")] if table.note else []
    return [Text(), Text(table.title, style="bold"), shown, *note]


def _cell(cell: str | Figure) -> Text:
    shown = Text(_plain(cell))
    return shown.append(f"\n{cell.interval}", style="dim") if isinstance(cell, Figure) and cell.interval else shown


def _plain(cell: str | Figure) -> str:
    return cell.value if isinstance(cell, Figure) else cell


def _markdown(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text)

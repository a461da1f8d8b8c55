"""Tables of figures with their intervals, for the terminal and in Markdown, in one layout."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from eval.intervals import Difference, Rate
from pipelines.result import html_table
from schemas.text import printable

# Characters that may begin markup in Markdown: names come from job files, and openings from models.
_MARKUP = re.compile(r"([\\`*_\[\]|~$#<>&])")

_MIN_P = 0.001


@dataclass(frozen=True)
class Figure:
    """Text of a figure, and of its interval; the interval is "" where there is none."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """Table with a title, a header, rows of as many cells as the header, and a note below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Figure]]
    note: str = ""


def percent(rate: Rate | None, decimals: int = 1) -> Figure:
    """Percentage with its interval, as `94.8 (92.3 to 96.6)`; a dash where there is no rate."""
    if rate is None:
        return Figure("-")
    low, high = (f"{100 * bound:.{decimals}f}" for bound in (rate.low, rate.high))
    return Figure(f"{100 * rate.rate:.{decimals}f}", f"{low} to {high}")


def points(difference: Difference) -> Figure:
    """Difference of two rates in percentage points, with its interval."""
    value = f"{100 * difference.difference:+.1f}"
    if difference.low is None or difference.high is None:
        return Figure(value)
    return Figure(value, f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}")


def p_value(value: float) -> str:
    """Text of a p-value: 0.012, or <0.001."""
    return f"{value:.3f}" if value >= _MIN_P else f"<{_MIN_P}"


def plain(table: Table) -> Table:
    """Returns the table with each text on one line, without control characters: names may come from anywhere."""
    rows = [[cell if isinstance(cell, Figure) else _one_line(cell) for cell in row] for row in table.rows]
    return Table(_one_line(table.title), list(map(_one_line, table.header)), rows, _one_line(table.note))


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def markdown(tables: Sequence[Table]) -> str:
    """Markdown of tables, one after the other, each under its title."""
    return "\n".join(line for table in tables for line in _markdown_lines(table))


def rendered(tables: Sequence[Table]) -> Group:
    """Tables for a terminal; intervals stand below their figures, so that more models fit beside each other."""
    return Group(*(part for table in tables for part in _parts(table)))


def html_tables(tables: Sequence[Table]) -> str:
    """HTML of tables for a notebook, one after the other, each under its title."""
    parts = []
    for table in tables:
        rows = [[f"{c.value} ({c.interval})" if isinstance(c, Figure) and c.interval else _plain(c) for c in row]
                for row in table.rows]  # fmt: skip
        columns = [(name, [row[number] for row in rows]) for number, name in enumerate(table.header)]
        parts.append(f"<h4>{escape(table.title)}</h4>{html_table(columns)}<p>{escape(table.note)}</p>")
    return "".join(parts)


def _markdown_lines(table: Table) -> Sequence[str]:
    rows = [[_markdown(f"{c.value} ({c.interval})" if isinstance(c, Figure) and c.interval else _plain(c)) for c in row]
            for row in table.rows]  # fmt: skip
    header = [_markdown(cell) for cell in table.header]
    aligned = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, aligned, *rows)]
    return [f"## {_markdown(table.title)}", "", *lines, "", *([_markdown(table.note), ""] if table.note else [])]


def _parts(table: Table) -> Sequence[RichTable | Text]:
    rendered_table = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, cell in enumerate(table.header):
        rendered_table.add_column(Text(cell, style="bold"), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        rendered_table.add_row(*(_cell(cell) for cell in row))
    note = [Text(table.note, style="dim")] if table.note else []
    return [Text(), Text(table.title, style="bold"), rendered_table, *note]


def _cell(cell: str | Figure) -> Text:
    text = Text(_plain(cell))
    return text.append(f"\n{cell.interval}", style="dim") if isinstance(cell, Figure) and cell.interval else text


def _plain(cell: str | Figure) -> str:
    return cell.value if isinstance(cell, Figure) else cell


def _markdown(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text)

"""A report on a terminal: the answers, what is missing, and the tables."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from pipelines.pages.tables import plain, rendered
from pipelines.reporting.report import Report


def answers_page(report: Report) -> Group:
    """Shows the answers, and what a reader must know."""
    return Group(*_answers(report))


def terminal_page(report: Report) -> Group:
    """Shows the answers and the tables."""
    not_run = [Text(line, style="dim") for line in report.not_run]
    return Group(
        *_answers(report), rendered([plain(table) for table in (*report.all_tables, report.lineage.table)]), *not_run
    )


def _answers(report: Report) -> Iterator[RenderableType]:
    for answer in report.answers:
        first, *others = answer.lines
        yield Text.assemble((f"{answer.question} ", "bold"), first)
        yield from (Text(f"  {line}") for line in others)
    yield from (Text(f"note: {note}", style="dim") for note in report.notes)

"""A report as one HTML page and as Markdown.

Invariant: names and texts, which come from data and models, are shown as plain text. The page loads nothing; its one
script hides samples without a searched word, and the content security policy allows no other.
"""

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from itertools import groupby
from typing import Any

from markupsafe import Markup

from pipelines.pages.emotions import EMOTION_ORDER, heat_rows
from pipelines.pages.html import render_html
from pipelines.pages.markdown import code, escaped
from pipelines.pages.tables import Figure, Table, markdown, plain
from pipelines.reporting.charts import Chart
from pipelines.reporting.report import Report
from pipelines.reporting.svg import draw
from pipelines.run_folder import refuse_existing, write_errors
from schemas.errors import RunError
from schemas.text import printable, shorten
from services.storage.filesystem import resolve, write_atomic

_OPTION = "--to"
_MAX_NAME = 120
# A longer table is folded, so that the figures are near.
_MAX_LINES = 16
# Samples in Markdown, which no one searches.
_MAX_MARKDOWN_SAMPLES = 8


def page_paths(to: str) -> tuple[str, str]:
    """Returns the paths of the HTML page and of the Markdown file beside it.

    Raises:
        RunError: the name does not end with .html.
    """
    if not to.endswith(".html"):
        raise RunError(_OPTION, to, "the page is HTML", "let its name end with .html; Markdown is written beside it")
    return to, f"{to.removesuffix('.html')}.md"


def refuse_existing_pages(to: str) -> None:
    """Refuses a page that would replace a file.

    Raises:
        RunError: a file is there already, or the name does not end with .html.
    """
    for path in page_paths(to):
        refuse_existing(path, _OPTION)


def save_report(report: Report, to: str | None = None) -> str:
    """Writes a report as an HTML page, and as Markdown beside it; files there are replaced.

    Args:
        to: path of the page; by default report.html in the folder of the study.

    Returns:
        Path of the page.

    Raises:
        RunError: no place is named for a report of runs, the name does not end with .html, or it cannot be written.
    """
    if to is None and not report.study_folder:
        raise RunError(_OPTION, None, "no place is named for the page", "name one: --to report.html")
    page, text = page_paths(to or f"{report.study_folder}/report.html")
    for path, content in ((page, html_page(report)), (text, markdown_page(report))):
        fs, place = resolve(path, _OPTION)
        with write_errors(path, _OPTION):
            write_atomic(fs, place, content.encode())
    return page


def html_page(report: Report) -> str:
    """Makes an HTML page that needs no other file."""
    script = (files("pipelines.reporting") / "report.js").read_text(encoding="utf-8")
    return render_html(
        "pipelines.reporting",
        "report.html.jinja",
        name=f"Report: {shorten(report.name, _MAX_NAME)}",
        report=report,
        tables=[_table(table) for table in report.tables],
        further=[_table(table) for table in report.further],
        students=_table(report.students) if report.students else None,
        charts=[_chart(chart) for chart in report.charts],
        heats=[{"model": heat.model, "rows": heat_rows(heat.matrix)} for heat in report.heats],
        expressed=EMOTION_ORDER,
        runs=_table(report.lineage.table),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def _chart(chart: Chart) -> dict[str, Any]:
    table = chart.table()
    return {"title": printable(chart.title), "svg": Markup(draw(chart)), "note": chart.note, "table": _table(table)}


def _table(made: Table) -> dict[str, Any]:
    table = plain(made)
    header = [cell.rpartition(": ") for cell in table.header]
    spans = [(name, len(list(columns))) for name, columns in groupby(name for name, _, _ in header)]
    spanned = {name for name, count in spans if name and count > 1}
    return {
        "title": table.title,
        # Columns `base: positive`, `base: negative` stand below one `base`.
        "spans": [(name if name in spanned else "", count) for name, count in spans] if spanned else [],
        "header": [last if name in spanned else f"{name}{colon}{last}" for name, colon, last in header],
        "rows": [[_cell(cell) for cell in row] for row in table.rows],
        "note": table.note,
        "is_long": len(table.rows) > _MAX_LINES,
    }


def _cell(cell: str | Figure) -> dict[str, str]:
    if isinstance(cell, Figure):
        return {"value": cell.value, "interval": cell.interval}
    return {"value": cell, "interval": ""}


def markdown_page(report: Report) -> str:
    """Makes the same as Markdown: figures stand there as tables, and the logit lens is left out."""
    return "\n".join(_markdown_lines(report)) + "\n"


def _markdown_lines(report: Report) -> Iterator[str]:
    yield f"# Report: {escaped(report.name)}"
    yield ""
    for answer in report.answers:
        yield f"- **{answer.question}** {escaped(' '.join(answer.lines))}"
    yield ""
    if report.description:
        yield from (escaped(report.description), "")
    yield from (f"- {escaped(note)}" for note in report.notes)
    yield ""
    yield markdown([plain(table) for table in (*report.all_tables, *(chart.table() for chart in report.charts))])
    yield from (f"- {escaped(line)}" for line in report.not_run)
    yield from ("", f"The paper's values: {escaped(report.source)}.", "")
    if report.samples:
        yield from ("## Samples", "")
        for sample in report.samples[:_MAX_MARKDOWN_SAMPLES]:
            yield f"**{escaped(sample.heading or sample.source)}** {escaped(sample.emotion)}"
            yield ""
            yield from (f"- {code(each.by)} ({escaped(each.note)}): {escaped(each.text)}" for each in sample.texts)
            yield ""
    yield from _lineage_lines(report)


def _lineage_lines(report: Report) -> Iterator[str]:
    lineage = report.lineage
    yield markdown([plain(lineage.table)])
    for title, facts in (("Machine", lineage.machine), ("Versions", lineage.versions)):
        if facts:
            yield f"{title}: {escaped(', '.join(f'{name} {value}' for name, value in facts.items()))}."
            yield ""
    if lineage.command:
        yield f"Again: {code(lineage.command)}"

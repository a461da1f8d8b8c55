"""The HTML page of `kindling quality`: acceptance as bars, and emotions asked for against expressed, all 28 of them.

Invariant: names and texts, which come from data and models, are shown as plain text: no markup of theirs reaches the
page, which has no script and loads nothing.
"""

from collections.abc import Iterator
from typing import Any

from pipelines.pages.emotions import EMOTION_ORDER, heat_rows
from pipelines.pages.html import render_html
from pipelines.quality_report.report import CorpusQuality, QualityReport, accepted_share
from pipelines.quality_report.terminal_page import interval, notes, percent
from pipelines.run_folder import refuse_existing, write_errors
from schemas.rows import ACCEPTED, ERROR, REJECTED
from schemas.text import printable, shorten
from services.storage.filesystem import resolve, write_atomic

HTML_OPTION = "--html"
"""option that names the page"""
_MAX_NAME_CHARACTERS = 80


def save_quality(report: QualityReport, to: str) -> None:
    """Writes a report to a new HTML file.

    Raises:
        RunError: a file is there already, or the place cannot be written.
    """
    refuse_existing(to, HTML_OPTION)
    fs, path = resolve(to, HTML_OPTION)
    with write_errors(to, HTML_OPTION):
        write_atomic(fs, path, html_page(report).encode())


def html_page(report: QualityReport) -> str:
    """Makes an HTML page that needs no other file."""
    labels = [_name(each.label) for each in report.corpora]
    return render_html(
        "pipelines.quality_report",
        "report.html.jinja",
        name=_name(f"Quality of {', '.join(labels)}"),
        notes=[printable(note) for note in notes(report)],
        labels=labels,
        corpora=[_corpus(each) for each in report.corpora],
        tables=[_reasons(report), *_breakdowns(report)],
        classifier=_name(report.classifier),
        max_sample=report.max_sample,
        seed=report.seed,
    )


def _breakdowns(report: QualityReport) -> Iterator[dict[str, Any]]:
    """Yields a table for each column that groups rows and has several values."""
    for column in dict.fromkeys(column for each in report.corpora for column in each.by):
        table = _breakdown(report, column)
        if len(table["lines"]) > 1:
            yield table


def _corpus(each: CorpusQuality) -> dict[str, Any]:
    rows = sum(each.rows.values())
    shares = {state: each.rows[state] / rows if rows else 0.0 for state in (ACCEPTED, REJECTED, ERROR)}
    facts = {"rows": f"{rows:,}", "accepted": percent(each.acceptance), "texts of the sample": f"{each.sample:,}"}
    if each.expression:
        facts["expressed the emotion asked for"] = interval(each.expression.same)
        facts["expressed one of its group"] = interval(each.expression.same_group)
    if variety := each.variety:
        facts["words a text"] = f"{variety.words:.1f}"
        for n, share in variety.distinct.items():
            facts[f"distinct-{n}"] = _figure(share)
        facts["self-BLEU"] = _figure(each.self_bleu)
        facts["different openings"] = percent(variety.distinct_openings)
        facts["commonest opening"] = f"{percent(variety.commonest_opening_share)} {_name(variety.commonest_opening)}"
        facts["equal to another text"] = percent(variety.duplicates)
        facts["repetition inside"] = percent(variety.repetition)
    matrix = each.expression.matrix if each.expression else {}
    return {
        "label": _name(each.label),
        "shares": [(state, share) for state, share in shares.items() if each.is_judged],
        "facts": facts,
        "expressed": EMOTION_ORDER,
        "matrix": heat_rows(matrix),
    }


def _reasons(report: QualityReport) -> dict[str, Any]:
    """Returns a table of reasons: rows with each, as a share of all rows of the run."""
    total: dict[str, int] = {}
    for each in report.corpora:
        for reason, rows in each.reasons.items():
            total[reason] = total.get(reason, 0) + rows
    lines = []
    for reason in sorted(total, key=lambda reason: (-total[reason], reason)):
        counts = [each.reasons.get(reason, 0) for each in report.corpora]
        shares = [rows / max(sum(each.rows.values()), 1) for rows, each in zip(counts, report.corpora, strict=True)]
        cells = [(share, f"{rows:,} ({share:.1%})") for rows, share in zip(counts, shares, strict=True)]
        lines.append({"label": _name(reason), "cells": cells})
    return {"title": "Why rows were not accepted", "header": "reason", "kind": REJECTED, "lines": lines}


def _breakdown(report: QualityReport, column: str) -> dict[str, Any]:
    """Returns a table of the groups of a column: the share of accepted rows of each."""
    total: dict[str, int] = {}
    for each in report.corpora:
        for value, states in each.by.get(column, {}).items():
            total[value] = total.get(value, 0) + sum(states.values())
    lines = []
    for value in sorted(total, key=lambda value: (-total[value], value)):
        cells = [_acceptance(each, each.by.get(column, {}).get(value)) for each in report.corpora]
        lines.append({"label": _name(value) or "(none)", "cells": cells})
    return {"title": f"Accepted rows by {_name(column)}", "header": _name(column), "kind": ACCEPTED, "lines": lines}


def _acceptance(each: CorpusQuality, states: dict[str, int] | None) -> tuple[float | None, str]:
    if states is None:
        return None, "-"
    rows = sum(states.values())
    share = accepted_share(states) if each.is_judged else None
    return share, f"{rows:,} rows" if share is None else f"{share:.1%} of {rows:,}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _name(text: str) -> str:
    return shorten(text, _MAX_NAME_CHARACTERS)

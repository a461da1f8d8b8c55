"""The tables of `kindling quality` for a terminal: runs side by side, emotions in their three groups."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.intervals import Rate
from eval.sentiment import PAPER_GROUPS
from pipelines.pages.emotions import NO_EMOTION
from pipelines.quality_report.report import CorpusQuality, QualityReport, accepted_share, grouped
from schemas.outcomes import by_frequency
from schemas.rows import ERROR, REJECTED
from schemas.text import plural, shorten

# Nobody reads a longer table; the HTML page and --json have all.
_MAX_LINES = 30
_MAX_NAME_CHARACTERS = 60
# Columns of more runs would be folded into many short lines.
_MAX_BESIDE = 6


def terminal_page(report: QualityReport) -> Group:
    """Makes the tables of a report: acceptance, reasons, groups of rows, emotions, variety."""
    corpora = report.corpora
    parts: list[RenderableType] = [_overview(corpora), *map(Text, notes(report))]
    shown = corpora[:_MAX_BESIDE]
    columns = dict.fromkeys(column for each in shown for column in each.by)
    parts += _beside("reason", shown, [_reasons(each) for each in shown])
    for column in columns:
        if len({value for each in shown for value in each.by.get(column, {})}) < 2:
            continue  # one value: the whole runs, which stand above
        parts += _beside(column, shown, [_acceptance(each, column) for each in shown])
    if len(corpora) > len(shown):
        parts.append(Text(f"and {plural(len(corpora) - len(shown), 'run')} more: --html and --json have all"))
    parts += _expressions(corpora)
    parts += _variety(corpora)
    return Group(*parts)


def notes(report: QualityReport) -> Iterator[str]:
    """Yields a line for each thing that a reader of the figures must know."""
    if report.rules:
        yield f"judged by the rules of {report.rules}: a row counts for each rule that refuses it"
    for each in report.corpora:
        if each.complete is False:
            yield f"{each.label}: the run is not complete; what is committed so far was counted"
        if not each.is_judged:
            yield f"{each.label}: files, which nobody judged: --rules judges them"
        if each.unused_rules:
            named = ", ".join(each.unused_rules)
            yield f"{each.label}: not applied, because they need a model, or a column that is not named: {named}"
        if each.without_text:
            yield f"{each.label}: left out: {plural(each.without_text, 'row')} without text"
        if each.unreadable:
            yield f"{each.label}: left out: {plural(each.unreadable, 'row')} that cannot be read"
    if len({each.sample for each in report.corpora}) > 1:
        yield "samples of different sizes: distinct-n and self-BLEU of these do not compare"


def percent(share: float | None) -> str:
    """Formats a share as `93.1%`; `-` where there is none."""
    return "-" if share is None else f"{share:.1%}"


def interval(rate: Rate | None) -> str:
    """Formats a rate as `41.2% (35.3% to 47.4%)`; `-` where there is none."""
    return "-" if rate is None else f"{rate.rate:.1%} ({rate.low:.1%} to {rate.high:.1%})"


def _overview(corpora: Sequence[CorpusQuality]) -> Table:
    table = _table("run", "rows", "accepted", "rejected", "failed")
    for each in corpora:
        rows = sum(each.rows.values())
        shares = [each.acceptance, *(each.rows[state] / rows if rows else None for state in (REJECTED, ERROR))]
        table.add_row(_name(each.label), f"{rows:,}", *map(percent, shares if each.is_judged else [None] * 3))
    return table


def _beside(
    header: str, corpora: Sequence[CorpusQuality], cells: Sequence[dict[str, tuple[int, str]]]
) -> Iterator[RenderableType]:
    """Yields a table with a line for each value and a column for each run; nothing where there is no value.

    Args:
        header: what the values are.
        corpora: the runs.
        cells: for each of them (number of rows, text to show) by value.
    """
    total: Counter[str] = Counter()
    for of_run in cells:
        total.update({value: rows for value, (rows, _) in of_run.items()})
    if not total:
        return
    table = _table(header, *(each.label for each in corpora))
    largest = list(by_frequency(total))
    for value in largest[:_MAX_LINES]:
        table.add_row(_name(value or "(none)"), *(of_run.get(value, (0, "-"))[1] for of_run in cells))
    yield from (Text(), table)
    if (more := len(largest) - _MAX_LINES) > 0:
        yield Text(f"and {more:,} more: --html and --json have all")


def _reasons(each: CorpusQuality) -> dict[str, tuple[int, str]]:
    all_rows = sum(each.rows.values())
    return {reason: (rows, f"{rows:,} ({percent(rows / all_rows)})") for reason, rows in each.reasons.items()}


def _acceptance(each: CorpusQuality, column: str) -> dict[str, tuple[int, str]]:
    cells = {}
    for value, states in each.by.get(column, {}).items():
        rows = sum(states.values())
        cells[value] = rows, f"{percent(accepted_share(states))} of {rows:,}" if each.is_judged else f"{rows:,}"
    return cells


def _expressions(corpora: Sequence[CorpusQuality]) -> Iterator[RenderableType]:
    if all(each.expression is None for each in corpora):
        return
    rates = _table("expressed", "texts", "the emotion asked for", "one of its group")
    for each in corpora:
        if each.expression:
            rates.add_row(
                _name(each.label), f"{each.sample:,}", interval(each.expression.same),
                interval(each.expression.same_group),
            )  # fmt: skip
    yield from (Text(), rates)
    groups = _table("asked / expressed", *(f"{group}" for group in PAPER_GROUPS), "texts")
    for each in corpora:
        if each.expression is None:
            continue
        groups.add_row(Text(shorten(each.label, _MAX_NAME_CHARACTERS), style="bold"))
        for asked, expressed in grouped(each.expression.matrix).items():
            texts = sum(expressed.values())
            shares = (percent(expressed.get(group, 0) / texts) for group in PAPER_GROUPS)
            groups.add_row(f"  {asked if asked != NO_EMOTION else '(not known)'}", *shares, f"{texts:,}")
    yield from (Text(), groups)


def _variety(corpora: Sequence[CorpusQuality]) -> Iterator[RenderableType]:
    table = _table("variety", "texts", "words", "distinct-1, 2, 3", "self-BLEU")
    openings = _table("how texts begin", "different", "the commonest")
    for each in corpora:
        if (variety := each.variety) is not None:
            distinct = "  ".join(map(_figure, variety.distinct.values()))
            table.add_row(
                _name(each.label), f"{each.sample:,}", f"{variety.words:.1f}", distinct, _figure(each.self_bleu)
            )  # fmt: skip
            commonest = f"{percent(variety.commonest_opening_share)} {shorten(variety.commonest_opening, 60)}"
            openings.add_row(_name(each.label), percent(variety.distinct_openings), commonest)
    if table.row_count:
        yield from (Text(), table, Text(), openings)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(_name(first), overflow="fold")
    for header in others:
        table.add_column(_name(header), justify="right")
    return table


def _name(value: str) -> Text:
    return Text(shorten(value, _MAX_NAME_CHARACTERS))

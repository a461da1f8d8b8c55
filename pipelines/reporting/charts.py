"""The figures of a report as data, and the same data as tables, which Markdown and readers without pictures get."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from eval.intervals import Difference, Rate
from eval.sentiment import OVERALL
from pipelines.evaluation.blimp_results import TITLES
from pipelines.evaluation.sentiment_results import ModelSentiment
from pipelines.pages.emotions import EMOTION_ORDER
from pipelines.pages.tables import Figure, Table
from pipelines.reporting.changes import POSITIVE_GROUP, Grammar
from pipelines.reporting.evaluations import Evaluations, Setting

_POSITIVE = "share of positive responses, %"


@dataclass(frozen=True)
class Mark:
    """A value with its interval; low and high are None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RowChart:
    """Values of several series at each of some rows, one below the other.

    Attributes:
        title: what is shown.
        rows: names of the rows.
        series: for each series the mark at each row; None where it has none.
        unit: what the values are.
        style: bars from zero; dots; or dots of changes, with a line at zero.
        bases: names of series that are drawn as bases, in grey.
        note: line below.
        students: all students of the report, so that each has one colour in all figures.
    """

    title: str
    rows: Sequence[str]
    series: Mapping[str, Sequence[Mark | None]]
    unit: str
    style: Literal["bars", "dots", "changes"]
    bases: Sequence[str] = ()
    note: str = ""
    students: Sequence[str] = ()

    def table(self) -> Table:
        """The same as a table."""
        rows = [[row, *(_cell(marks[at]) for marks in self.series.values())] for at, row in enumerate(self.rows)]
        return Table(self.title, [self.unit, *self.series], rows, self.note)


@dataclass(frozen=True)
class Curve:
    """Points of a line of a run; lines of one run have one colour, and a faint one is thin and has no name."""

    run: str
    points: Sequence[tuple[float, float]]
    is_faint: bool = False


@dataclass(frozen=True)
class LineChart:
    """Lines over time or steps; the attributes are those of `RowChart`, where they have the same name."""

    title: str
    series: Mapping[str, Curve]
    across: str
    unit: str
    note: str = ""
    bases: Sequence[str] = field(default=())

    def table(self) -> Table:
        """The first, the lowest, the highest and the last value of each line."""
        rows = []
        for name, curve in self.series.items():
            values = [value for _, value in curve.points]
            rows.append([name, *(f"{value:,.4g}" for value in (values[0], min(values), max(values), values[-1]))])
        return Table(self.title, [self.unit, "first", "lowest", "highest", "last"], rows, self.note)


Chart = RowChart | LineChart


def sentiment_charts(evaluations: Evaluations, shown: Sequence[str]) -> list[Chart]:
    """Draws positive responses by group of the prompts, in each setting; and by emotion, of some models.

    Args:
        shown: names of the models whose responses are shown by emotion.
    """
    charts: list[Chart] = []
    students = evaluations.students
    for setting in evaluations.sentiment:
        if POSITIVE_GROUP not in setting.groups:
            continue
        label = evaluations.label(setting)
        title = f"Positive responses by group of the prompts{f' ({label})' if label else ''}"
        parts = [*setting.groups, OVERALL]
        by_part = {name: {**model.rates.by_group, OVERALL: model.rates.overall} for name, model in _measured(setting)}
        charts.append(_rate_chart(title, parts, by_part, setting, "bars", students))
        by_emotion = {name: model.rates.by_emotion for name, model in _measured(setting) if name in shown}
        emotions = [emotion for emotion in EMOTION_ORDER if any(emotion in rates for rates in by_emotion.values())]
        if emotions and setting is evaluations.sentiment[0]:
            title = "Positive responses by emotion of the prompts"
            charts.append(_rate_chart(title, emotions, by_emotion, setting, "dots", students))
    return charts


def _measured(setting: Setting[ModelSentiment]) -> list[tuple[str, ModelSentiment]]:
    return list(setting.models.items())


def _rate_chart(
    title: str,
    parts: Sequence[str],
    by_part: Mapping[str, Mapping[str, Mapping[str, Rate]]],
    setting: Setting[ModelSentiment],
    style: Literal["bars", "dots"],
    students: Sequence[str],
) -> RowChart:
    shown = [part for part in parts if any(part in rates for rates in by_part.values())]
    series = {
        name: [_rate_mark(rates[part][POSITIVE_GROUP]) if part in rates else None for part in shown]
        for name, rates in by_part.items()
    }
    bases = [name for name in by_part if name not in setting.bases]
    return RowChart(title, shown, series, _POSITIVE, style, bases, "Intervals: 95%, Wilson.", students)


def blimp_chart(evaluations: Evaluations, grammar: Sequence[Grammar]) -> list[Chart]:
    """Draws the change of each phenomenon from the base; none without students."""
    parts = dict.fromkeys(name for each in grammar for name in each.by)
    phenomena = [*(name for name in TITLES if name in parts), *(name for name in parts if name not in TITLES)]
    if not phenomena:
        return []
    series = {
        each.student: [_change_mark(each.by[name]) if name in each.by else None for name in phenomena]
        for each in grammar
    }
    bases = ", ".join(dict.fromkeys(each.base for each in grammar))
    title = f"{grammar[0].pairs} by {grammar[0].part}: change from the base ({bases})"
    note = "Percentage points of accuracy on the same pairs. Intervals: 95%, paired bootstrap."
    rows = [TITLES.get(name, name) for name in phenomena]
    return [RowChart(title, rows, series, "change, points", "changes", (), note, evaluations.students)]


def _rate_mark(rate: Rate) -> Mark:
    return Mark(100 * rate.rate, 100 * rate.low, 100 * rate.high)


def _change_mark(change: Difference) -> Mark:
    if change.low is None or change.high is None:
        return Mark(100 * change.difference)
    return Mark(100 * change.difference, 100 * change.low, 100 * change.high)


def _cell(mark: Mark | None) -> str | Figure:
    if mark is None:
        return "-"
    if mark.low is None or mark.high is None:
        return f"{mark.value:.1f}"
    return Figure(f"{mark.value:.1f}", f"{mark.low:.1f} to {mark.high:.1f}")

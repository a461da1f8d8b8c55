"""The tables of the evaluation `sentiment`: the paper's 5 and 17, models side by side, and how varied responses are."""

from collections.abc import Sequence

from eval.intervals import Rate
from eval.sentiment import OVERALL
from pipelines.evaluation.sentiment import SentimentReport
from pipelines.evaluation.sentiment_results import ModelSentiment
from pipelines.evaluation.session import Comparison
from pipelines.evaluation.tables import Table, p_value, percent, points
from schemas.errors import shorten

_LONGEST_OPENING = 40

Row = tuple[str, list[dict[str, Rate]]]
"""what it is of, and the rates of each model"""


def sentiment_tables(report: SentimentReport) -> list[Table]:
    """All tables, the longest last; none where no model was evaluated."""
    if not report.models:
        return []
    rates = [model.rates for model in report.models]
    overall: list[Row] = [(OVERALL, [each.overall for each in rates])]
    groups: list[Row] = [(group, [each.by_group[group] for each in rates]) for group in rates[0].by_group]
    emotions: list[Row] = [(emotion, [each.by_emotion[emotion] for each in rates]) for emotion in rates[0].by_emotion]
    return [
        _rates(report, "Sentiment of the responses (as Table 5)", [*groups, *overall], 1),
        *(_comparison(each, report.groups) for each in report.comparisons),
        _variety(report.models),
        *([_rates(report, "Sentiment by emotion (as Table 17)", [*groups, *emotions], 2)] if emotions else []),
    ]


def _rates(report: SentimentReport, title: str, rows: Sequence[Row], decimals: int) -> Table:
    header = [f"{model.name}: {group.capitalize()} (%)" for model in report.models for group in report.groups]
    cells = []
    for name, rates in rows:
        sizes = dict.fromkeys(str(next(iter(each.values())).n) for each in rates)
        figures = [percent(each[group], decimals) for each in rates for group in report.groups]
        cells.append([name.capitalize(), "/".join(sizes), *figures])
    return Table(title, ["Instruction emotion", "n", *header], cells, "n: responses. Intervals: 95%, Wilson.")


def _comparison(comparison: Comparison, groups: Sequence[str]) -> Table:
    header = [cell for group in groups for cell in (f"{group.capitalize()} (points)", "p")]
    rows = []
    for part, differences in comparison.by.items():
        figures = [cell for group in groups for cell in (points(differences[group]), p_value(differences[group].p))]
        rows.append([part.capitalize(), str(differences[groups[0]].n), *figures])
    return Table(
        f"{comparison.second} less {comparison.first}, on the same prompts",
        ["Instruction emotion", "n", *header], rows,
        "Percentage points. n: prompts that both answered. Intervals: 95%, paired bootstrap. p: McNemar's exact test.",
    )  # fmt: skip


def _variety(models: Sequence[ModelSentiment]) -> Table:
    lines = {
        "responses": lambda model: str(model.variety.texts),
        "prompts without one": lambda model: str(model.failed),
        "blank": lambda model: str(model.variety.blank),
        "cut off at max_tokens": lambda model: "-" if model.cut_off is None else str(model.cut_off),
        "words a response": lambda model: f"{model.variety.words:.1f}",
        **{f"distinct-{n}": lambda model, n=n: _share(model.variety.distinct[n]) for n in models[0].variety.distinct},
        "different openings": lambda model: _share(model.variety.distinct_openings),
        "commonest opening": lambda model: shorten(model.variety.commonest_opening, _LONGEST_OPENING) or "-",
        "its share": lambda model: _share(model.variety.commonest_opening_share),
        "said more than once": lambda model: _share(model.variety.duplicates),
        "repetition in a response": lambda model: _share(model.variety.repetition),
    }
    rows = [[name, *(shown(model) for model in models)] for name, shown in lines.items()]
    note = "Shares are 0 to 1; docs/evaluation.md tells what each is of. A blank response has no sentiment."
    return Table("The responses themselves", ["", *(model.name for model in models)], rows, note)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

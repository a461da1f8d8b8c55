"""The tables of the evaluation `blimp`: the paper's 6 and 15, models beside the first one, and every paradigm."""

from collections.abc import Mapping, Sequence

from eval.blimp import PARADIGMS
from eval.intervals import Rate
from pipelines.evaluation.blimp import BlimpReport
from pipelines.evaluation.session import Comparison
from pipelines.evaluation.tables import Figure, Table, p_value, points

# What the paper's tables call the phenomena.
_TITLES = {
    "anaphor agreement": "Anaphor Agr.",
    "argument structure": "Arg. Structure",
    "binding": "Binding",
    "control/raising": "Control/Raising",
    "determiner-noun agreement": "Det-noun Agr.",
    "ellipsis": "Ellipsis",
    "filler-gap": "Filler-gap",
    "irregular forms": "Irregular Forms",
    "island effects": "Island Effects",
    "NPI licensing": "NPI Licensing",
    "quantifiers": "Quantifiers",
    "subject-verb agreement": "Subject-verb Agr.",
}


def blimp_tables(report: BlimpReport) -> list[Table]:
    """All tables, the longest last; none where no model was evaluated."""
    if not report.models:
        return []
    rates = [model.rates for model in report.models]
    rows = [
        *_rows([each.by_phenomenon for each in rates], _TITLES),
        *_rows([each.by_field for each in rates], {field: f"field: {field}" for field in rates[0].by_field}),
        *_rows([{"overall": each.overall} for each in rates], {"overall": "Overall"}),
        ["Ties", "", *(str(each.ties) for each in rates)],
    ]
    names = [model.name for model in report.models]
    note = (
        "Accuracy, 0 to 1. n: pairs. Intervals: 95%, Wilson. Ties count as right, as in lm-eval. docs/blimp.md tells "
        "how the paper's figures differ."
    )
    places = {name: f"{name} ({PARADIGMS[name].phenomenon})" if name in PARADIGMS else name
              for name in rates[0].by_paradigm}  # fmt: skip
    return [
        Table("BLiMP accuracy by phenomenon (as Tables 6 and 15)", ["Phenomenon", "n", *names], rows, note),
        *(_comparison(each) for each in report.comparisons),
        Table("BLiMP accuracy by paradigm", ["Paradigm", "n", *names],
              _rows([each.by_paradigm for each in rates], places)),
    ]  # fmt: skip


def _rows(rates: Sequence[Mapping[str, Rate]], titles: Mapping[str, str]) -> list[list[str | Figure]]:
    there = [part for part in titles if part in rates[0]]
    return [[titles[part], str(rates[0][part].n), *(_accuracy(each[part]) for each in rates)] for part in there]


def _accuracy(rate: Rate) -> Figure:
    return Figure(f"{rate.rate:.4f}", f"{rate.low:.4f} to {rate.high:.4f}")


def _comparison(comparison: Comparison) -> Table:
    parts = {**comparison.by["phenomenon"], **comparison.by["field"], **comparison.by["overall"]}
    titles = {**_TITLES, **{field: f"field: {field}" for field in comparison.by["field"]}, "overall": "Overall"}
    rows = [
        [titles[part], str(each.n), points(each), p_value(each.p), str(each.only_first), str(each.only_second)]
        for part, each in parts.items()
    ]
    return Table(
        f"BLiMP: {comparison.second} less {comparison.first}, on the same pairs",
        ["Phenomenon", "n", "Difference (points)", "p", f"only {comparison.first}", f"only {comparison.second}"], rows,
        "Percentage points. Intervals: 95%, paired bootstrap. p: McNemar's exact test. only: pairs that one model "
        "alone has right.",
    )  # fmt: skip

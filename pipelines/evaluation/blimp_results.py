"""Results of the evaluation `blimp`: each pair with its margin, the figures of a model, and the tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from eval.blimp import PARADIGMS, BlimpRates, blimp_rates, compare_blimp, correct_pairs
from eval.intervals import Difference, Rate
from pipelines.evaluation.record import write_result
from pipelines.evaluation.reports import ComparingReport, Comparison
from pipelines.evaluation.result_rows import reading_rows, write_rows
from pipelines.pages.tables import Figure, Table, p_value
from services.storage.store import ShardStore

if TYPE_CHECKING:
    from services.models.minimal_pairs import MinimalPair

BLIMP = "blimp"

_SCHEMA = pa.schema(
    [
        ("paradigm", pa.string()),
        ("phenomenon", pa.string()),  # null of a paradigm that is not BLiMP's
        ("field", pa.string()),
        ("sentence_good", pa.string()),  # after its context, where it has one
        ("sentence_bad", pa.string()),
        ("margin", pa.float64()),  # by how much the good one is likelier, in nats
        ("right", pa.bool_()),  # margin >= 0
    ]
)


TITLES = {
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
"""names of the phenomena in the paper's tables"""


@dataclass(frozen=True, eq=False)
class ModelBlimp:
    """Figures of one model; `margins` by paradigm, each of shape (pairs,), in nats."""

    name: str
    rates: BlimpRates
    margins: dict[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self.rates)


def write_blimp(
    store: ShardStore,
    name: str,
    paradigms: "Mapping[str, Sequence[MinimalPair]]",
    margins: Mapping[str, np.ndarray],
    identity: Mapping[str, Any],
) -> None:
    """Writes the pairs with their margins, and then the figures, which say that the result is done."""
    rows = []
    for paradigm, pairs in paradigms.items():
        place = PARADIGMS.get(paradigm)
        for pair, margin, is_right in zip(pairs, margins[paradigm], correct_pairs(margins[paradigm]), strict=True):
            good, bad = pair.texts
            rows.append(
                {
                    "paradigm": paradigm,
                    "phenomenon": place and place.phenomenon,
                    "field": place and place.field,
                    "sentence_good": good,
                    "sentence_bad": bad,
                    "margin": float(margin),
                    "right": bool(is_right),
                }
            )
    write_rows(store, BLIMP, name, rows, _SCHEMA)
    write_result(store, BLIMP, name, identity, figures=asdict(blimp_rates(margins)))


def read_blimp(store: ShardStore, name: str) -> ModelBlimp:
    """Reads the figures that `write_blimp` wrote.

    Raises:
        RunError: the file of pairs cannot be read.
    """
    with reading_rows(store, BLIMP, name) as path:
        table = store.read_table(path)
        paradigms, margins = np.array(table["paradigm"].to_pylist()), table["margin"].to_numpy()
    margins_of = {paradigm: margins[paradigms == paradigm] for paradigm in dict.fromkeys(paradigms.tolist())}
    return ModelBlimp(name, blimp_rates(margins_of), margins_of)


def compare_models(measured: Sequence[ModelBlimp], seed: int) -> list[Comparison]:
    """Compares each other model with the first, on the same pairs."""
    return [
        Comparison(measured[0].name, model.name, compare_blimp(measured[0].margins, model.margins, seed))
        for model in measured[1:]
    ]


@dataclass(frozen=True)
class BlimpReport(ComparingReport):
    """Outcome of the evaluation `blimp`."""

    models: list[ModelBlimp]
    comparisons: list[Comparison]

    def tables(self) -> list[Table]:
        """Accuracy by phenomenon, the comparisons, accuracy by paradigm."""
        return blimp_tables(self)


def blimp_tables(report: BlimpReport) -> list[Table]:
    """Tables of the report, the longest last; no table where no model was evaluated."""
    if not report.models:
        return []
    rates = [model.rates for model in report.models]
    rows: list[Sequence[str | Figure]] = [
        *_rows([model.by_phenomenon for model in rates], TITLES),
        *_rows([model.by_field for model in rates], {field: f"field: {field}" for field in rates[0].by_field}),
        *_rows([{"overall": model.overall} for model in rates], {"overall": "Overall"}),
        ["Overall, ties as one half", str(rates[0].overall.n), *(f"{model.ties_as_half:.4f}" for model in rates)],
        ["Ties", "", *(str(model.ties) for model in rates)],
    ]
    names = [model.name for model in report.models]
    note = (
        "Accuracy, 0 to 1. n: pairs. Intervals: 95%, Wilson. Ties count as right, as in lm-eval, but in the "
        "line that says so. docs/blimp.md says how the paper's figures differ."
    )
    title = pairs_title(rates[0].by_paradigm)
    by_phenomenon = " by phenomenon (as Tables 6 and 15)" if rates[0].by_phenomenon else ""
    places = {name: f"{name} ({PARADIGMS[name].phenomenon})" if name in PARADIGMS else name
              for name in rates[0].by_paradigm}  # fmt: skip
    return [
        Table(f"{title}: accuracy{by_phenomenon}", ["Phenomenon", "n", *names], rows, note),
        *(_comparison(comparison) for comparison in report.comparisons),
        Table(f"{title}: accuracy by paradigm", ["Paradigm", "n", *names],
              _rows([model.by_paradigm for model in rates], places)),
    ]  # fmt: skip


def pairs_title(paradigms: Collection[str]) -> str:
    """Returns the name of the pairs in titles: BLiMP only where all of the paradigms are BLiMP's."""
    known = sum(name in PARADIGMS for name in paradigms)
    if known == len(paradigms):
        return "BLiMP"
    return "BLiMP and other minimal pairs" if known else "Minimal pairs that are not BLiMP's"


def _rows(rates: Sequence[Mapping[str, Rate]], titles: Mapping[str, str]) -> list[list[str | Figure]]:
    parts = [part for part in titles if part in rates[0]]
    return [[titles[part], str(rates[0][part].n), *(_accuracy(by_part[part]) for by_part in rates)] for part in parts]


def _accuracy(rate: Rate) -> Figure:
    return Figure(f"{rate.rate:.4f}", f"{rate.low:.4f} to {rate.high:.4f}")


def _difference(difference: Difference) -> Figure:
    if difference.low is None or difference.high is None:
        return Figure(f"{difference.difference:+.4f}")
    return Figure(f"{difference.difference:+.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}")


def _comparison(comparison: Comparison) -> Table:
    parts = {**comparison.by["phenomenon"], **comparison.by["field"], **comparison.by["overall"]}
    titles = {**TITLES, **{field: f"field: {field}" for field in comparison.by["field"]}, "overall": "Overall"}
    rows: list[Sequence[str | Figure]] = [
        [titles[part], str(diff.n), _difference(diff), p_value(diff.p), str(diff.only_first), str(diff.only_second)]
        for part, diff in parts.items()
    ]
    return Table(
        f"{pairs_title(comparison.by['paradigm'])}: {comparison.second} less {comparison.first}, on the same pairs",
        ["Phenomenon", "n", "Difference", "p", f"only {comparison.first}", f"only {comparison.second}"], rows,
        "Difference of accuracies. Intervals: 95%, paired bootstrap. p: McNemar's exact test. only: pairs that one "
        "model alone has right.",
    )  # fmt: skip

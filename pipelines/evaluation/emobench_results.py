"""Results of the evaluation `emobench`: each question with its options' scores, the figures of a model, the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from eval.emobench import (
    TASKS,
    Accuracy,
    EmoBenchRates,
    Item,
    Outcome,
    Question,
    Scoring,
    compare_emobench,
    emobench_rates,
    outcome_of,
)
from pipelines.evaluation.record import write_result
from pipelines.evaluation.reports import ComparingReport, Comparison
from pipelines.evaluation.result_rows import reading_rows, write_rows
from pipelines.pages.tables import Figure, Table, p_value, percent, points
from services.storage.store import ShardStore

EMOBENCH = "emobench"

_SCHEMA = pa.schema(
    [
        ("task", pa.string()),  # EU or EA
        ("item", pa.string()),
        ("category", pa.string()),
        ("subcategory", pa.string()),
        ("scenario", pa.string()),
        ("kind", pa.string()),  # of the question: emotion, cause or response
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("label", pa.int64()),  # number of the right option
        ("log_likelihoods", pa.list_(pa.float64())),  # of the options, in nats; with `letters` of their letters
        ("right", pa.bool_()),
    ]
)
_SCORED = {
    "cloze": "An option's score is its log-likelihood as the answer, for each character.",
    "letters": "An option's score is the log-probability of its letter, averaged over orders of the options.",
}


@dataclass(frozen=True, eq=False)
class ModelEmoBench:
    """Figures of one model.

    Attributes:
        outcomes: outcome of each item.
    """

    name: str
    scoring: Scoring
    rates: EmoBenchRates
    outcomes: list[Outcome]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"scoring": self.scoring, **asdict(self.rates)}


def write_emobench(
    store: ShardStore,
    name: str,
    items: Mapping[str, Sequence[Item]],
    scores: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    scoring: Scoring,
    identity: Mapping[str, Any],
) -> None:
    """Writes the questions with their scores, and then the figures, which say that the result is done.

    Args:
        items: items by part.
        scores: by part, for each item and each of its questions, the log-likelihoods of the options.
    """
    rows, outcomes = [], []
    for part, of_part in items.items():
        for item, of_item in zip(of_part, scores[part], strict=True):
            outcome = outcome_of(item, [np.array(sums) for sums in of_item], scoring)
            outcomes.append(outcome)
            for question, sums in zip(item.questions, of_item, strict=True):
                rows.append(
                    {
                        "task": item.task,
                        "item": item.name,
                        "category": item.category,
                        "subcategory": item.subcategory,
                        "scenario": item.scenario,
                        "kind": question.kind,
                        "question": question.text,
                        "options": question.options,
                        "label": question.label,
                        "log_likelihoods": sums,
                        "right": outcome.right[question.kind],
                    }
                )
    write_rows(store, EMOBENCH, name, rows, _SCHEMA)
    write_result(store, EMOBENCH, name, identity, figures=asdict(emobench_rates(outcomes)))


def read_emobench(store: ShardStore, name: str, scoring: Scoring) -> ModelEmoBench:
    """Reads the figures that `write_emobench` wrote.

    Raises:
        RunError: the file of questions cannot be read.
    """
    with reading_rows(store, EMOBENCH, name) as path:
        rows = store.read_table(path).to_pylist()
        outcomes = [
            _outcome(list(questions), scoring)
            for _, questions in groupby(rows, key=lambda row: (row["task"], row["item"]))
        ]
    return ModelEmoBench(name, scoring, emobench_rates(outcomes), outcomes)


def _outcome(rows: Sequence[Mapping[str, Any]], scoring: Scoring) -> Outcome:
    questions = tuple(Question(row["kind"], row["question"], tuple(row["options"]), row["label"]) for row in rows)
    first = rows[0]
    item = Item(first["task"], first["item"], first["category"], first["subcategory"], first["scenario"], questions)
    return outcome_of(item, [np.array(row["log_likelihoods"]) for row in rows], scoring)


def compare_models(measured: Sequence[ModelEmoBench], seed: int) -> list[Comparison]:
    """Compares each other model with the first, on the same items."""
    return [
        Comparison(measured[0].name, model.name, compare_emobench(measured[0].outcomes, model.outcomes, seed))
        for model in measured[1:]
    ]


@dataclass(frozen=True)
class EmoBenchReport(ComparingReport):
    """Outcome of the evaluation `emobench`."""

    scoring: Scoring
    models: list[ModelEmoBench]
    comparisons: list[Comparison]

    def tables(self) -> list[Table]:
        """Accuracy beside chance, and the comparisons; no table where no model was evaluated."""
        return [accuracy_table(self.models), *map(_comparison, self.comparisons)] if self.models else []


def accuracy_table(models: Sequence[ModelEmoBench]) -> Table:
    """Accuracy of models that were measured in the same way, by task, question and category, beside chance."""
    rates = [model.rates for model in models]
    rows: list[Sequence[str | Figure]] = []
    for task, title in TASKS.items():
        rows.append(_row(f"{task}: {title}", [each.by_task[task] for each in rates]))
        for by_part in ([each.by_question for each in rates], [each.by_category for each in rates]):
            its = [part for part in by_part[0] if part.startswith(f"{task} ")]
            rows += [_row(part_title(part), [each[part] for each in by_part]) for part in its]
        if models[0].scoring == "cloze":
            rows.append(_row(f"{task}, by the whole log-likelihood", [each.by_sum[task] for each in rates]))
    ties = ["Ties", "", "", "", *(str(each.ties) for each in rates)]
    note = (
        "Accuracy in %. n: items, of which an item of EU is right where both its emotion and its cause are. chance: "
        "random choices. longest: always the longest option. Intervals: 95%, Wilson. "
        f"{_SCORED[models[0].scoring]} Ties: by lot. docs/emobench.md."
    )
    return Table("EmoBench: accuracy", ["Part", "n", "chance", "longest", *(model.name for model in models)],
                 [*rows, ties], note)  # fmt: skip


def part_title(part: str) -> str:
    """Returns the title of a part: `EU: complex emotions`."""
    task, _, name = part.partition(" ")
    return f"{task}: {name.replace('_', ' ')}"


def _row(title: str, accuracies: Sequence[Accuracy]) -> list[str | Figure]:
    first = accuracies[0]
    without = [f"{100 * share:.1f}" for share in (first.chance, first.longest)]
    return [title, str(first.rate.n), *without, *(percent(each.rate) for each in accuracies)]


def _comparison(comparison: Comparison) -> Table:
    by = comparison.by
    parts = [*by["task"].items(), *((part_title(part), diff) for kind in ("question", "category")
                                    for part, diff in by[kind].items())]  # fmt: skip
    rows: list[Sequence[str | Figure]] = [
        [title, str(diff.n), points(diff), p_value(diff.p), str(diff.only_first), str(diff.only_second)]
        for title, diff in parts
    ]
    return Table(
        f"EmoBench: {comparison.second} less {comparison.first}, on the same items",
        ["Part", "n", "Difference (points)", "p", f"only {comparison.first}", f"only {comparison.second}"], rows,
        "Percentage points. Intervals: 95%, paired bootstrap. p: McNemar's exact test. only: items that one model "
        "alone has right.",
    )  # fmt: skip

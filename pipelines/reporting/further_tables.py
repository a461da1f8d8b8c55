"""Tables of evaluations that the paper does not have: EmoBench beside chance, and tasks of lm-eval.

Invariant: what was not run has no figure: a line says what it needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from eval.emobench import TASKS
from pipelines.evaluation.emobench_results import ModelEmoBench, accuracy_table, compare_models
from pipelines.evaluation.lm_eval_results import lm_eval_tables
from pipelines.pages.tables import Figure, Table, p_value, points
from pipelines.reporting.evaluations import Evaluations, Setting


def further_tables(evaluations: Evaluations) -> tuple[list[Table], list[str]]:
    """Makes the tables, and a line for each evaluation that was not run."""
    emobench = [table for setting in evaluations.emobench for table in _emobench(setting, evaluations.label(setting))]
    lm_eval = [
        replace(table, title=f"{table.title}: scores ({run})")
        for run, scores in evaluations.lm_eval.items()
        for table in lm_eval_tables(scores, "not run")
    ]
    made = {"EmoBench": ("emobench", emobench), "lm-eval": ("lm_eval", lm_eval)}
    not_run = [
        f"{name}: not run. It needs an evaluation {evaluation}."
        for name, (evaluation, tables) in made.items()
        if not tables
    ]
    return [*emobench, *lm_eval], not_run


def _emobench(setting: Setting[ModelEmoBench], label: str) -> Iterator[Table]:
    accuracies = accuracy_table(list(setting.models.values()))
    suffix = f" ({label})" if label else ""
    yield replace(accuracies, title=f"{accuracies.title}{suffix}")
    rows: list[Sequence[str | Figure]] = []
    for student, base in setting.bases.items():
        (comparison,) = compare_models([setting.models[base], setting.models[student]], setting.seed)
        differences = [comparison.by["task"][task] for task in TASKS]
        rows.append([student, base, *(cell for each in differences for cell in (points(each), p_value(each.p)))])
    if rows:
        header = [cell for task in TASKS for cell in (f"{task}: points", f"{task}: p")]
        note = (
            "Percentage points more than the base, on the same items. Intervals: 95%, paired bootstrap. p: McNemar's "
            "exact test; no p is corrected for the number of students."
        )
        yield Table(f"EmoBench: every student against its base{suffix}", ["Student", "Base", *header], rows, note)

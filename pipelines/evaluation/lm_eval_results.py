"""Results of the evaluation `lm_eval`: the scores of each model by task, and their table."""

from dataclasses import asdict, dataclass
from typing import Any

from eval.lm_eval_harness import TaskScore
from pipelines.evaluation.reports import Report
from pipelines.pages.tables import Table

LM_EVAL = "lm_eval"


@dataclass(frozen=True)
class LmEvalReport(Report):
    """Outcome of the evaluation `lm_eval`: the scores of each model, by task or group as the job names it."""

    models: dict[str, dict[str, list[TaskScore]]]

    def tables(self) -> list[Table]:
        """One table of all tasks."""
        return lm_eval_tables(self)

    def models_as_json(self) -> dict[str, Any]:
        """Scores of each model, by task."""
        return {
            name: {task: [asdict(score) for score in scores] for task, scores in tasks.items()}
            for name, tasks in self.models.items()
        }


def lm_eval_tables(report: LmEvalReport, missing: str = "-") -> list[Table]:
    """One table of all tasks; no table where nothing was evaluated.

    Args:
        missing: text of a score that is not there.
    """
    scores = {name: {(score.task, score.metric): score for listed in tasks.values() for score in listed}
              for name, tasks in report.models.items()}  # fmt: skip
    lines = list(dict.fromkeys(line for by_line in scores.values() for line in by_line))
    if not lines:
        return []
    rows = []
    for line in lines:
        first = next(by_line[line] for by_line in scores.values() if line in by_line)
        facts = ["-" if fact is None else str(fact) for fact in (first.n, first.shots)]
        figures = [_score_text(by_line.get(line), missing) for by_line in scores.values()]
        rows.append([first.task, first.metric, *facts, *figures])
    note = "As lm-eval gives them, with its standard errors. n: documents. No chat template is applied."
    return [Table("lm-eval", ["Task", "Metric", "n", "Shots", *scores], rows, note)]


def _score_text(score: TaskScore | None, missing: str) -> str:
    if score is None:
        return missing
    return f"{score.value:.4f}" + ("" if score.stderr is None else f" ± {score.stderr:.4f}")

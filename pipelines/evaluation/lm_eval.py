"""The evaluation `lm_eval`: any task or group of lm-evaluation-harness, and its table."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from eval.lm_eval_harness import TaskScore, evaluate_task, refuse_unknown_tasks
from pipelines.evaluation.record import read_result, write_result
from pipelines.evaluation.reports import Report
from pipelines.evaluation.session import Evaluation, Loaded, Session, model_facts, spread_over_model
from pipelines.pages.tables import Table
from schemas.errors import EngineError
from schemas.evaluate import EvaluatedModel, EvaluateJob, LmEval, task_name, task_result
from schemas.fingerprint import identity_of
from services.cluster import connect_to_ray

LM_EVAL = "lm_eval"

_log = logging.getLogger("kindling")


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


def check_lm_eval(job: EvaluateJob) -> None:
    """Checks the section before any evaluation runs.

    Raises:
        JobError: a task or group is unknown.
    """
    refuse_unknown_tasks(_section(job).tasks)


def evaluate_lm_eval(session: Session) -> LmEvalReport:
    """Evaluates the tasks by each model; each task of each model is a result of its own, and finished ones are read.

    A model with a task that could not be evaluated is among the failures; its other tasks are kept.

    Raises:
        KindlingError: the job or the folder is at fault.
        StoppedError: a signal came; finished results are kept.
    """
    section, store = _section(session.job), session.store
    identities = {
        name: {task_name(task): _identity(section, task, model, revision) for task in section.tasks}
        for name, (model, revision) in session.models.items()
    }
    done = {
        name: {task: read_result(store, LM_EVAL, task_result(name, task), identity) for task, identity in tasks.items()}
        for name, tasks in identities.items()
    }
    left = {name: todo for name, tasks in done.items() if (todo := [task for task in tasks if tasks[task] is None])}
    if left:
        with connect_to_ray(session.job.cluster.address):
            for name, tasks in left.items():
                with session.record_failure(name):
                    for task, task_scores in _scores(session, name, tasks):
                        plain = [asdict(score) for score in task_scores]
                        done[name][task] = write_result(
                            store, LM_EVAL, task_result(name, task), identities[name][task], scores=plain
                        )
    scores = {
        name: {task: [TaskScore(**score) for score in result["scores"]] for task, result in results.items() if result}
        for name, results in done.items()
    }
    return LmEvalReport({name: tasks for name, tasks in scores.items() if tasks})


def _scores(session: Session, name: str, tasks: Sequence[str]) -> Iterator[tuple[str, list[TaskScore]]]:
    """Evaluates some tasks of one model: (task, scores) as they are finished; an error of a task is recorded."""
    section = _section(session.job)
    items = [task for task in section.tasks if task_name(task) in tasks]
    _log.info("%s: lm-eval, %d of %d tasks", name, len(items), len(section.tasks))
    work = partial(_evaluate, section.limit, section.batch_size)
    finished = {name: len(section.tasks) - len(items)}
    with session.progress.show(LM_EVAL, "tasks", {name: len(section.tasks)}, finished) as advance:
        for number, outcome in spread_over_model(session, name, work, items):
            if isinstance(outcome, EngineError):
                with session.record_failure(name):
                    raise outcome
            else:
                yield task_name(items[number]), outcome
            advance(name, 1)


def lm_eval_tables(report: LmEvalReport) -> list[Table]:
    """One table of all tasks; no table where nothing was evaluated."""
    scores = {name: {(score.task, score.metric): score for listed in tasks.values() for score in listed}
              for name, tasks in report.models.items()}  # fmt: skip
    lines = list(dict.fromkeys(line for by_line in scores.values() for line in by_line))
    if not lines:
        return []
    rows = []
    for line in lines:
        first = next(by_line[line] for by_line in scores.values() if line in by_line)
        facts = ["-" if fact is None else str(fact) for fact in (first.n, first.shots)]
        rows.append(
            [first.task, first.metric, *facts, *(_score_text(by_line.get(line)) for by_line in scores.values())]
        )
    note = "As lm-eval gives them, with its standard errors. n: documents. No chat template is applied."
    return [Table("lm-eval", ["Task", "Metric", "n", "Shots", *scores], rows, note)]


def _score_text(score: TaskScore | None) -> str:
    if score is None:
        return "-"
    return f"{score.value:.4f}" + ("" if score.stderr is None else f" ± {score.stderr:.4f}")


def _section(job: EvaluateJob) -> LmEval:
    if job.lm_eval is None:  # EvaluateJob refuses a job that asks for lm_eval without its section
        raise ValueError("the job has no section lm_eval")
    return job.lm_eval


def _identity(section: LmEval, task: str | Mapping[str, Any], model: EvaluatedModel, revision: str) -> dict[str, Any]:
    asked = {"task": task, "limit": section.limit, "batch_size": section.batch_size}
    return identity_of({LM_EVAL: asked, "model": model_facts(model, revision)})


def _evaluate(
    limit: int | None, batch_size: int, loaded: Loaded, task: str | dict[str, Any]
) -> list[TaskScore] | EngineError:
    try:
        return evaluate_task(*loaded, task, limit, batch_size)
    except EngineError as error:  # returned, not raised: the other tasks of the model are still evaluated
        return error


EVALUATION = Evaluation("lm_eval", evaluate_lm_eval, check_lm_eval)

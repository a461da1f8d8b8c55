"""The evaluation `lm_eval`: any task or group of lm-evaluation-harness, and its table."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from eval.lm_eval_harness import TaskScore, evaluate_task, refuse_unknown_tasks
from pipelines.evaluation.record import read_result, write_result
from pipelines.evaluation.session import Evaluation, Loaded, Report, Session, model_facts, spread_over_model
from pipelines.evaluation.tables import Table
from schemas.errors import EngineError
from schemas.evaluate import EvaluatedModel, EvaluateJob, LmEval, task_name
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
    """Finds before anything runs what is wrong with the tasks.

    Raises:
        JobError: so it is.
    """
    refuse_unknown_tasks(job.lm_eval.tasks)


def evaluate_lm_eval(session: Session) -> LmEvalReport:
    """Does what is not done yet; each task of each model is a result of its own.

    A model of which a task could not be evaluated is among the failures; its other tasks are kept.

    Raises:
        KindlingError: the job or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    section, store = session.job.lm_eval, session.store
    identities = {
        name: {task_name(task): _identity(section, task, model, revision) for task in section.tasks}
        for name, (model, revision) in session.models.items()
    }
    done = {name: {task: read_result(store, LM_EVAL, _path(name, task), each) for task, each in tasks.items()}
            for name, tasks in identities.items()}  # fmt: skip
    left = {name: todo for name, tasks in done.items() if (todo := [task for task in tasks if tasks[task] is None])}
    if left:
        with connect_to_ray(session.job.cluster.address):
            for name, tasks in left.items():
                with session.record_failure(name):
                    for task, scores in _scores(session, name, tasks):
                        plain = [asdict(score) for score in scores]
                        done[name][task] = write_result(
                            store, LM_EVAL, _path(name, task), identities[name][task], scores=plain
                        )
    scores = {
        name: {task: [TaskScore(**score) for score in each["scores"]] for task, each in tasks.items() if each}
        for name, tasks in done.items()
    }
    return LmEvalReport({name: tasks for name, tasks in scores.items() if tasks})


def _scores(session: Session, name: str, tasks: Sequence[str]) -> Iterator[tuple[str, list[TaskScore]]]:
    """Of a model, each of some tasks with its scores, as they come; a task's fault is told, and the others go on."""
    section = session.job.lm_eval
    units = [task for task in section.tasks if task_name(task) in tasks]
    _log.info("%s: lm-eval, %d of %d tasks", name, len(units), len(section.tasks))
    work = partial(_evaluate, section.limit, section.batch_size)
    there = {name: len(section.tasks) - len(units)}
    with session.progress.shown(LM_EVAL, "tasks", {name: len(section.tasks)}, there) as advance:
        for number, scores in spread_over_model(session, name, work, units):
            if isinstance(scores, EngineError):
                with session.record_failure(name):
                    raise scores
            else:
                yield task_name(units[number]), scores
            advance(name, 1)


def lm_eval_tables(report: LmEvalReport) -> list[Table]:
    """One table of all tasks; none where nothing was evaluated."""
    scores = {name: {(score.task, score.metric): score for each in tasks.values() for score in each}
              for name, tasks in report.models.items()}  # fmt: skip
    lines = list(dict.fromkeys(line for each in scores.values() for line in each))
    if not lines:
        return []
    rows = []
    for line in lines:
        there = next(each[line] for each in scores.values() if line in each)
        facts = ["-" if fact is None else str(fact) for fact in (there.n, there.shots)]
        rows.append([there.task, there.metric, *facts, *(_shown(each.get(line)) for each in scores.values())])
    note = "As lm-eval gives them, with its standard errors. n: documents. No chat template is applied."
    return [Table("lm-eval", ["Task", "Metric", "n", "Shots", *scores], rows, note)]


def _shown(score: TaskScore | None) -> str:
    if score is None:
        return "-"
    return f"{score.value:.4f}" + ("" if score.stderr is None else f" ± {score.stderr:.4f}")


def _path(name: str, task: str) -> str:
    return f"{name}/{quote(task, safe='')}"  # as in LmEval.result_files


def _identity(section: LmEval, task: str | Mapping[str, Any], model: EvaluatedModel, revision: str) -> dict[str, Any]:
    asked = {"task": task, "limit": section.limit, "batch_size": section.batch_size}
    return identity_of({LM_EVAL: asked, "model": model_facts(model, revision)})


def _evaluate(
    limit: int | None, batch_size: int, loaded: Loaded, task: str | dict[str, Any]
) -> list[TaskScore] | EngineError:
    try:
        return evaluate_task(*loaded, task, limit, batch_size)
    except EngineError as error:  # given back, not raised: the model's other tasks go on
        return error


EVALUATION = Evaluation("lm_eval", evaluate_lm_eval, check_lm_eval)

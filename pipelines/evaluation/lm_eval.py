"""The evaluation `lm_eval`: any task or group of lm-evaluation-harness."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from eval.lm_eval_harness import TaskScore, evaluate_task, refuse_unknown_tasks
from pipelines.evaluation.lm_eval_results import LM_EVAL, LmEvalReport
from pipelines.evaluation.record import read_result, write_result
from pipelines.evaluation.session import Evaluation, Loaded, Session, model_facts, spread_over_model
from schemas.errors import EngineError
from schemas.evaluate import EvaluatedModel, EvaluateJob, LmEval, task_name, task_result
from schemas.fingerprint import identity_of
from services.cluster import connect_to_ray

_log = logging.getLogger("kindling")


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

"""How far an evaluation is, for `kindling status`: which results are there, and what models answered until now."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError

from eval.questionnaire import PAGE_NAME
from pipelines.evaluation.record import read_record, result_path
from schemas.errors import RunError
from schemas.evaluate import EvaluateJob, task_name
from services.observability.metrics import EndpointError, EndpointMetrics, read_endpoint
from services.storage.store import ShardStore

_LM_EVAL, _PREFERENCE = "lm_eval", "preference"
_ANSWERED = ("sentiment", _PREFERENCE)


@dataclass(frozen=True)
class EvaluatedPart:
    """One evaluation of one model; the questionnaire of preference is one of all models.

    Attributes:
        model: its name; empty of the questionnaire.
        done: its result is there.
        examples, planned: what the model was measured on by now, and is in all; None where only an endpoint would tell.
        answers, prompts: prompts that the model answered, refused ones included, and all; None where it is asked none,
            or was not yet.
    """

    evaluation: str
    model: str
    done: bool
    examples: int | None = None
    planned: int | None = None
    answers: int | None = None
    prompts: int | None = None


@dataclass(frozen=True)
class EvaluateStatus:
    """How far an evaluation is.

    Attributes:
        complete: each part is done, or of a model that failed; while the endpoint answers, none has failed for good.
        source: `endpoint` where the running job told how far it is, else `disk`.
        silent: why no endpoint did; empty where one did, or none was asked.
        failures: the error of each model that could not be evaluated by the last start that came to its end.
    """

    run: str
    name: str
    complete: bool
    source: str
    silent: str
    parts: list[EvaluatedPart]
    failures: dict[str, str]
    kind: str = "evaluate"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def evaluate_status(store: ShardStore, answered: Callable[[ShardStore], tuple[int, int]]) -> EvaluateStatus | None:
    """That of an evaluation; None where the folder holds none.

    Args:
        answered: rows of a run that have a terminal state, and all of its rows.

    Raises:
        RunError: its record cannot be read.
    """
    record = read_record(store)
    if record is None:
        return None
    try:
        job, failures = EvaluateJob.model_validate(record["job"]), dict(record["failures"])
    except (ValidationError, KeyError, TypeError, ValueError):
        raise RunError(store.url, None, "its evaluate.json is of another version", "use that version") from None
    parts = [_with_answers(store, part, answered) for part in _parts(store, job)]
    # Where one model failed there is no questionnaire, which is of all of them.
    complete = all(
        part.done or part.model in failures or (part.evaluation == _PREFERENCE and bool(failures)) for part in parts
    )
    found = EvaluateStatus(store.url, job.name, complete, "disk", "", parts, failures)
    if all(part.done for part in parts):
        return found
    try:
        told = read_endpoint(record.get("metrics", ""), record.get("start_id", ""))
    except EndpointError as error:
        return replace(found, silent="" if complete else str(error))
    return replace(found, complete=False, source="endpoint", parts=[_told(told, part) for part in parts])


def _parts(store: ShardStore, job: EvaluateJob) -> Iterator[EvaluatedPart]:
    names = [model.label for model in job.models] or [job.responses.label if job.responses else ""]
    for evaluation in job.evaluations:
        if evaluation == _PREFERENCE:
            yield from (EvaluatedPart(evaluation, name, _there(store, f"{evaluation}/{PAGE_NAME}")) for name in names)
            if job.preference.returned:
                yield EvaluatedPart(evaluation, "", _there(store, result_path(evaluation, "tally", "json")))
        elif evaluation == _LM_EVAL and job.lm_eval:
            tasks = [task_name(task) for task in job.lm_eval.tasks]
            for name in names:
                done = sum(_there(store, result_path(evaluation, f"{name}/{task}", "json")) for task in tasks)
                yield EvaluatedPart(evaluation, name, done == len(tasks), done, len(tasks))
        else:
            yield from (
                EvaluatedPart(evaluation, name, _there(store, result_path(evaluation, name, "json"))) for name in names
            )


def _there(store: ShardStore, path: str) -> bool:
    return store.fs.exists(store.path(path))


def _with_answers(
    store: ShardStore, part: EvaluatedPart, answered: Callable[[ShardStore], tuple[int, int]]
) -> EvaluatedPart:
    folder = f"responses/{part.evaluation}/{part.model}"
    if part.done or part.evaluation not in _ANSWERED or not _there(store, f"{folder}/run.json"):
        return part
    answers, prompts = answered(ShardStore(f"{store.url}/{folder}"))
    return replace(part, answers=answers, prompts=prompts)


def _told(told: EndpointMetrics, part: EvaluatedPart) -> EvaluatedPart:
    names = {"examples": "kindling_evaluate_examples_total", "planned": "kindling_evaluate_planned_examples"}
    values = {name: told.value(series, evaluation=part.evaluation, model=part.model) for name, series in names.items()}
    return replace(part, **{name: int(value) for name, value in values.items() if value is not None})

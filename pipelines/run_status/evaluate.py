"""Status of an `evaluate` run: results that are done, and prompts that models responded to."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipelines.run_folder import read_record
from pipelines.run_status.augment import count_finished
from pipelines.run_status.page import EndpointStatus, progress_bar, titled_list
from schemas.errors import RunError
from schemas.evaluate import EvaluateJob, EvaluationSection, PromptSet
from schemas.text import shorten
from services.observability.endpoint_reader import EndpointError, EndpointMetrics, read_endpoint
from services.storage.store import ShardStore


@dataclass(frozen=True)
class EvaluatedPart:
    """Progress of one evaluation of one model; the questionnaire of `preference` is one part of all models.

    Attributes:
        model: name of the model; empty for what is of all models.
        done: the result is written.
        examples, planned: number of examples that the model was measured on, and of all; None where only an endpoint
            knows.
        answers, prompts: number of prompts that the model responded to (refused ones included), and of all; None where
            it gets no prompts, or has not begun.
    """

    evaluation: str
    model: str
    done: bool
    examples: int | None = None
    planned: int | None = None
    answers: int | None = None
    prompts: int | None = None

    def how_far(self) -> str:
        """Examples or prompts done, of all; empty where neither is known."""
        if self.examples and self.planned:
            return f"{self.examples:,} of {self.planned:,}"
        return "" if self.answers is None else f"{self.answers:,} of {self.prompts:,} prompts answered"


@dataclass(frozen=True, kw_only=True)
class EvaluateStatus(EndpointStatus):
    """Progress of an evaluation.

    Attributes:
        complete: each part is done, or its model failed; never while the endpoint answers.
        failures: error of each model that the last finished start could not evaluate, by the model's name.
    """

    kind: str = "evaluate"
    parts: list[EvaluatedPart]
    failures: dict[str, str]

    @property
    def has_failed_parts(self) -> bool:
        """Returns whether a model could not be evaluated."""
        return bool(self.failures)

    def line(self) -> str:
        """Number of results."""
        return f"{shorten(self.name)}: {self._results_text()}"

    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Number of results; and lists of the evaluations and of failed models."""
        lines = [f"{self.name}: {self._results_text()}", progress_bar(self._results(), len(self.parts), width)]
        lines += self.silence_lines()
        failed = [f"{name}: {shorten(error)}" for name, error in self.failures.items()]
        return lines, [self._evaluation_lines(), titled_list("failed", failed)]

    def _results(self) -> int:
        return sum(part.done for part in self.parts)

    def _results_text(self) -> str:
        return f"an evaluation, {self._results()} of {len(self.parts)} results, {self.state_text()}"

    def _evaluation_lines(self) -> list[str]:
        """A line for each evaluation: its results, and the progress of models that have begun."""
        lines = []
        for evaluation in dict.fromkeys(part.evaluation for part in self.parts):
            parts = [part for part in self.parts if part.evaluation == evaluation]
            begun = [f"; {part.model}: {how_far}" for part in parts if not part.done and (how_far := part.how_far())]
            lines.append(f"{evaluation:10}  {sum(part.done for part in parts)} of {len(parts)}{''.join(begun)}")
        return lines


def evaluate_status(store: ShardStore, may_run: bool) -> EvaluateStatus:
    """Status of an evaluation, from its results and runs, and from its endpoint while it runs.

    Args:
        may_run: whether it may run now; the endpoint is asked only then.

    Raises:
        RunError: its record cannot be read.
    """
    record = read_record(store, "evaluate") or {}
    try:
        job, failures = EvaluateJob.model_validate(record["job"]), dict(record["failures"])
    except (ValidationError, KeyError, TypeError, ValueError):
        raise RunError(store.url, None, "its evaluate.json is of another version", "use that version") from None
    parts = [_with_responses(store, job, part) for part in _parts(store, job)]
    complete = all(
        part.done or part.model in failures or (_section(job, part).for_all_models and bool(failures)) for part in parts
    )
    status = EvaluateStatus(
        run=store.url, name=job.name, complete=complete, source="disk", silent="", parts=parts, failures=failures
    )
    if all(part.done for part in parts) or not may_run:
        return status
    try:
        endpoint = read_endpoint(record.get("metrics", ""), record.get("start_id", ""))
    except EndpointError as error:
        return replace(status, silent="" if complete else str(error))
    return replace(status, complete=False, source="endpoint", parts=[_from_endpoint(endpoint, part) for part in parts])


def _parts(store: ShardStore, job: EvaluateJob) -> Iterator[EvaluatedPart]:
    for evaluation in job.evaluations:
        section: EvaluationSection = getattr(job, evaluation)
        for model, files in section.result_files(evaluation, job.model_labels).items():
            done = sum(store.fs.exists(store.path(path)) for path in files)
            counts = (done, len(files)) if section.has_tasks else (None, None)
            yield EvaluatedPart(evaluation, model, done == len(files), *counts)


def _section(job: EvaluateJob, part: EvaluatedPart) -> EvaluationSection:
    section: EvaluationSection = getattr(job, part.evaluation)
    return section


def _with_responses(store: ShardStore, job: EvaluateJob, part: EvaluatedPart) -> EvaluatedPart:
    """The part with the number of prompts that its model responded to, where it gets prompts and has begun."""
    folder = f"responses/{part.evaluation}/{part.model}"
    if (
        part.done
        or not isinstance(_section(job, part), PromptSet)
        or not store.fs.exists(store.path(f"{folder}/run.json"))
    ):
        return part
    answers, prompts = count_finished(ShardStore(f"{store.url}/{folder}"))
    return replace(part, answers=answers, prompts=prompts)


def _from_endpoint(endpoint: EndpointMetrics, part: EvaluatedPart) -> EvaluatedPart:
    names = {"examples": "kindling_evaluate_examples_total", "planned": "kindling_evaluate_planned_examples"}
    values = {
        name: endpoint.value(metric, evaluation=part.evaluation, model=part.model) for name, metric in names.items()
    }
    known: dict[str, Any] = {name: int(value) for name, value in values.items() if value is not None}
    return replace(part, **known)

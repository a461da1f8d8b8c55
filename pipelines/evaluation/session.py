"""Common parts of all evaluations: the session they work in, and the resume from finished results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from pipelines.evaluation.models import collect_failures
from pipelines.evaluation.progress import EvaluationProgress
from pipelines.evaluation.prompts import EmotionPrompt
from pipelines.evaluation.record import read_result
from pipelines.evaluation.reports import Report
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.job import Model
from services.cluster import connect_to_ray
from services.models.causal_lm import load_causal_model
from services.replicas.actors import run_on_actors
from services.storage.store import ShardStore

Item = TypeVar("Item")
Done = TypeVar("Done")
Loaded = tuple[torch.nn.Module, Any]
"""a model and its tokenizer"""


@dataclass(frozen=True)
class Session:
    """One evaluation of a job, in one start.

    Attributes:
        models: models that can be loaded, by name, each with its revision.
        store: folder of the evaluation.
        stop_within: gives None until a stop signal came, then the seconds left.
        failures: receives the error of each model that could not be evaluated, by its name.
    """

    job: EvaluateJob
    models: Mapping[str, tuple[EvaluatedModel, str]]
    store: ShardStore
    stop_within: Callable[[], float | None]
    progress: EvaluationProgress
    failures: dict[str, str]

    def record_failure(self, name: str) -> AbstractContextManager[None]:
        """Inside the block an error of a model is recorded as its failure, and the other models go on."""
        return collect_failures(self.failures, name)

    def without_result(self, evaluation: str, identities: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Names of the models that have no result yet.

        Args:
            identities: everything that the figures of a model depend on, flat, by the model's name.

        Raises:
            RunError: a result belongs to another job.
        """
        return [
            name for name, identity in identities.items()
            if read_result(self.store, evaluation, name, identity) is None
        ]  # fmt: skip

    def measure_missing(
        self, evaluation: str, identities: Mapping[str, Mapping[str, Any]], measure: Callable[[str], None]
    ) -> Sequence[str]:
        """Measures each model that has no result yet, one after the other.

        Args:
            identities: as `without_result` takes them.
            measure: writes the result of the model whose name it gets.

        Returns:
            names of the models that have a result.

        Raises:
            RunError: a result belongs to another job.
            StoppedError: a signal came; finished results are kept.
        """
        if left := self.without_result(evaluation, identities):
            with connect_to_ray(self.job.cluster.address):
                for name in left:
                    with self.record_failure(name):
                        measure(name)
        return [name for name in identities if name not in self.failures]


@dataclass(frozen=True)
class UnansweredPrompts:
    """Prompts of an evaluation, and the names of the models that still have to respond to them."""

    models: Sequence[str] = ()
    prompts: Sequence[EmotionPrompt] = ()


@dataclass(frozen=True)
class Evaluation:
    """One kind of evaluation. Its module ends with one of these, and `evaluate.EVALUATIONS` lists it.

    Attributes:
        name: the name in `evaluations` of a job, and of its section there.
        evaluate: evaluates all models of a session, and goes on with the results that are there.
        check: reports faults of the job before any evaluation runs; raises KindlingError.
        unanswered: returns the prompts that models have to respond to before `evaluate`.
    """

    name: str
    evaluate: Callable[[Session], Report]
    check: Callable[[EvaluateJob], None] = lambda job: None
    unanswered: Callable[[Session], UnansweredPrompts] = lambda session: UnansweredPrompts()


def spread_over_model(
    session: Session, name: str, work: Callable[[Loaded, Item], Done], items: Sequence[Item]
) -> Iterator[tuple[int, Done]]:
    """Runs work on items in actors that each hold one causal model of the job; see `run_on_actors`.

    Yields:
        (number of the item, result), in the order in which items are finished.
    """
    load = partial(_load, session.models[name][0].model())
    return run_on_actors(load, work, items, session.job.cluster, session.stop_within)


def model_facts(model: EvaluatedModel, revision: str) -> dict[str, Any]:
    """Everything about a model that its scores depend on, for identities."""
    return {**model.model_dump(exclude={"name"}), "found": revision}


def _load(model: Model, device: str, cores: int) -> Loaded:
    torch.set_num_threads(cores)
    return load_causal_model(model, device)

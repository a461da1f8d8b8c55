"""Reports of evaluations, and comparisons of two models; imports neither torch nor Ray, so that reading is fast."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from eval.intervals import Difference
from pipelines.evaluation.examples import Example
from pipelines.pages.tables import Table


@dataclass(frozen=True)
class Comparison:
    """Differences of two models on the same prompts or pairs.

    Attributes:
        first, second: names of the models; differences are second less first.
        by: differences by breakdown and part, as the comparing function in `eval` returns them.
    """

    first: str
    second: str
    by: dict[str, dict[str, Difference]]


class Report(ABC):
    """Outcome of one evaluation of a job; the base of every evaluation's own report."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """Tables of the page, the longest last; none where no model was evaluated."""

    def models_as_json(self) -> dict[str, Any]:
        """Plain values of each model, by its name; for `--json`."""
        return {}

    def comparisons_as_json(self) -> list[dict[str, Any]] | None:
        """Plain values of the comparisons with the first model; None where the evaluation has no comparisons."""
        return None

    def examples(self) -> dict[str, list[Example]]:
        """Some prompts with each model's response, by the model's name; the same prompts for all models."""
        return {}


class Measured(Protocol):
    """Figures of one model."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""


class ComparingReport(Report):
    """Outcome of an evaluation that compares each other model with the first."""

    models: Sequence[Measured]
    comparisons: list[Comparison]

    def models_as_json(self) -> dict[str, Any]:
        """Figures of each model."""
        return {model.name: model.as_json() for model in self.models}

    def comparisons_as_json(self) -> list[dict[str, Any]]:
        """Comparisons of each other model with the first."""
        return [asdict(comparison) for comparison in self.comparisons]

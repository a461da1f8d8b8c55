"""Reports of evaluations, and comparisons of two models; imports neither torch nor Ray, so that reading is fast."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

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

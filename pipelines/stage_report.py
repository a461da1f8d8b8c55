"""What came of the stages of a training."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from pipelines.model_card import blimp_line


@dataclass(frozen=True)
class StageReport:
    """What came of a stage.

    Attributes:
        parts: documents and words, or rows, of each part; those held out too.
        examples: of train, and of dev those that are looked at.
        tokens: the same in tokens.
        not_whole: examples that were truncated, split or dropped, and rows that could not be read.
        dev_loss_before, dev_loss: mean negative log-likelihood a token, averaged over the held-out examples; in nats.
        change: of that, with a 95% interval paired by input row: mean, low, high. By Student's t distribution, as there
            may be few rows.
        dev_losses: as training averaged it over batches, at each evaluation, by step.
        blimp: accuracy on minimal pairs, where the stage looks at it; see `trainers.grammar.Grammar.report`.
    """

    kind: str
    folder: str
    parts: dict[str, dict[str, int]]
    examples: dict[str, int]
    tokens: dict[str, int]
    not_whole: dict[str, int]
    max_length: int
    precision: str
    steps: int
    best_step: int
    dev_loss_before: float
    dev_loss: float
    change: list[float]
    dev_losses: dict[str, float]
    seconds: float
    blimp: dict[str, Any] | None = None

    def lines(self) -> list[str]:
        """For a person."""
        mean, low, high = self.change
        losses = f"{self.dev_loss_before:.3f} -> {self.dev_loss:.3f} ({mean:+.3f}, 95% {low:+.3f} to {high:+.3f})"
        told = [f"  {number} {what}" for what, number in self.not_whole.items()]
        if self.blimp:
            told.append(f"  {blimp_line(self.best_step, self.blimp)}")
        return [f"{self.folder}: {self.steps} steps, loss on held-out rows {losses}", *told]


@dataclass(frozen=True)
class LanguageModelReport:
    """What came of a training."""

    path: str
    stages: list[StageReport]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        return [*(line for stage in self.stages for line in stage.lines()), f"the model: {self.path}"]


def change_of(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> list[float]:
    """Mean change of the loss and its 95% interval; the examples of one input row are one witness."""
    _, row_of = np.unique(rows, return_inverse=True)
    change = np.bincount(row_of, after - before) / np.bincount(row_of)
    mean, spread = float(change.mean()), float(change.std(ddof=1)) / math.sqrt(len(change))
    half = float(student.ppf(0.975, len(change) - 1)) * spread
    return [round(value, 5) for value in (mean, mean - half, mean + half)]

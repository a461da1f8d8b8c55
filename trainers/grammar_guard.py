"""What a stage leaves of a model's grammar: minimal pairs, before its first step and at each evaluation."""

from collections.abc import Sequence
from math import inf, sqrt
from typing import Any

import numpy as np
from transformers import TrainerState

from schemas.errors import RunError
from services.models.minimal_pairs import MinimalPair

KEPT_LOSS = "eval_kept_loss"
"""the metric by which weights are kept: the loss, or infinity where too much grammar may be lost"""

# Of a normal distribution: 95% lie below so many standard errors above its mean.
_Z95_ONE_SIDED = 1.645


def most_lost(before: np.ndarray, after: np.ndarray) -> float:
    """How far accuracy fell at most: the upper end of the one-sided 95% interval of its drop, paired by minimal pair.

    As Agresti and Min (2005) have it, half a pair is added to each of the four outcomes: that no pair of a few changed
    does not prove that none would.

    Args:
        before, after: whether each pair was right.

    Returns:
        a difference of shares; below 0 where accuracy rose for certain.
    """
    pairs = len(before) + 2
    lost = np.sum(before & ~after) + 0.5
    won = np.sum(~before & after) + 0.5
    drop = (lost - won) / pairs
    return float(drop + _Z95_ONE_SIDED * sqrt((lost + won) / pairs - drop**2) / sqrt(pairs))


def fewest_pairs(max_drop: float) -> int:
    """So many pairs it takes at least: with fewer, `most_lost` is above `max_drop` even where no pair changed."""
    return max(int(np.ceil(_Z95_ONE_SIDED / max_drop)) - 2, 1)


class Grammar:
    """Says of an evaluation whether its weights may be kept.

    Args:
        pairs: a sample.
        max_drop: of accuracy, a share; what `most_lost` may be.
        before: whether each pair was right before the stage's first step.
    """

    def __init__(self, pairs: Sequence[MinimalPair], max_drop: float, before: np.ndarray) -> None:
        self.pairs, self._max_drop, self._before = pairs, max_drop, before

    def metrics(self, after: np.ndarray, loss: float) -> dict[str, float]:
        """Of one evaluation, as Trainer names its metrics."""
        lost = most_lost(self._before, after)
        kept = loss if lost <= self._max_drop else inf
        return {"eval_blimp": float(after.mean()), "eval_blimp_most_lost": lost, KEPT_LOSS: kept}

    def report(self, after: np.ndarray, state: TrainerState) -> dict[str, Any]:
        """What the stage's report says, in plain values.

        Args:
            after: whether each pair is right with the weights that were kept.
            state: Trainer's, at its end.

        Returns:
            `pairs` and `max_drop`; `accuracy` at each evaluation by step, 0 is before the first one; `most_lost` by
            step; `paradigms`: pairs of each, and accuracy before and after.

        Raises:
            RunError: there are no such weights.
        """
        told = {str(entry["step"]): entry for entry in state.log_history if KEPT_LOSS in entry}
        lost = {step: round(entry["eval_blimp_most_lost"], 5) for step, entry in told.items()}
        if not state.best_global_step:
            least = min(lost, key=lost.get)
            cause = (
                f"none of {len(lost)} evaluations kept the grammar: of the accuracy on {len(after)} minimal pairs "
                f"{lost[least]:.3f} at most is lost at the best of them (step {least}, 95%)"
            )
            remedy = (
                "lower optimizer.learning_rate or eval_steps, add replay, kl or lora, or take more pairs or a larger "
                "max_drop; and another output.path"
            )
            raise RunError("blimp.max_drop", self._max_drop, cause, remedy)
        names = np.array([pair.paradigm for pair in self.pairs])
        return {
            "pairs": len(names),
            "max_drop": self._max_drop,
            "accuracy": {"0": _share(self._before), **{step: round(e["eval_blimp"], 5) for step, e in told.items()}},
            "most_lost": lost,
            "paradigms": {
                name: [int(np.sum(names == name)), _share(self._before[names == name]), _share(after[names == name])]
                for name in np.unique(names).tolist()
            },
        }


def _share(found: np.ndarray) -> float:
    return round(float(found.mean()), 5)

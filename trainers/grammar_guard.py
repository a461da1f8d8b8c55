"""Grammar guard: scores minimal pairs during a training, and lets no weights be kept that have lost grammar.

Invariant: the weights that a stage keeps have lost at most `max_drop` of the first model's accuracy on minimal pairs,
with 95% confidence. A stage without such weights fails.
"""

from collections.abc import Sequence
from math import inf, sqrt
from typing import Any

import numpy as np
from transformers import TrainerState

from schemas.errors import RunError
from services.models.minimal_pairs import MinimalPair

GUARDED_LOSS_METRIC = "eval_kept_loss"
"""name of the metric that chooses the weights to keep: the loss, or infinity where too much grammar may be lost"""

# 95% quantile of the standard normal distribution.
_Z95_ONE_SIDED = 1.645


def accuracy_drop_bound(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the upper end of the one-sided 95% interval for the drop in accuracy, paired by minimal pair.

    Method: the adjusted Wald interval of Agresti and Min (2005, Statistics in Medicine 24), which adds half a pair to
    each of the four outcomes (correct before or not, after or not). So no change among a few pairs is no proof that the
    accuracy stayed.

    Args:
        before, after: booleans, True for each pair that was correct, shape (pairs,).

    Returns:
        Difference of shares. Below 0 where accuracy rose with 95% confidence.
    """
    pairs = len(before) + 2
    lost = np.sum(before & ~after) + 0.5
    won = np.sum(~before & after) + 0.5
    drop = (lost - won) / pairs
    # Variance of a difference of paired shares: (lost + won) / n - drop^2, over n.
    return float(drop + _Z95_ONE_SIDED * sqrt((lost + won) / pairs - drop**2) / sqrt(pairs))


def min_pairs(max_drop: float) -> int:
    """Returns the smallest number of pairs that can show a drop of at most `max_drop`.

    With fewer pairs `accuracy_drop_bound` is above `max_drop` even where no pair changed: the bound is then
    1.645 / (pairs + 2), as lost = won = 0.5.
    """
    return max(int(np.ceil(_Z95_ONE_SIDED / max_drop)) - 2, 1)


class GrammarCheck:
    """Decides at each evaluation of a stage whether its weights may be kept.

    Args:
        pairs: sample of minimal pairs.
        max_drop: limit of `accuracy_drop_bound`, a share.
        before: booleans, True for each pair that was correct before the stage's first step, shape (pairs,).
    """

    def __init__(self, pairs: Sequence[MinimalPair], max_drop: float, before: np.ndarray) -> None:
        self.pairs, self._max_drop, self._before = pairs, max_drop, before

    def metrics(self, after: np.ndarray, loss: float) -> dict[str, float]:
        """Returns the metrics of one evaluation under Trainer's names.

        Args:
            after: booleans, True for each pair that is correct now, shape (pairs,).
            loss: loss on the held-out examples.
        """
        drop_bound = accuracy_drop_bound(self._before, after)
        # Infinity is never the best, and uses up patience: the Trainer needs no rule of its own for lost grammar.
        guarded_loss = loss if drop_bound <= self._max_drop else inf
        return {
            "eval_blimp": float(after.mean()),
            "eval_blimp_most_lost": drop_bound,
            GUARDED_LOSS_METRIC: guarded_loss,
        }

    def report(self, after: np.ndarray, state: TrainerState) -> dict[str, Any]:
        """Returns the grammar part of the stage's report, in plain values.

        Args:
            after: booleans, True for each pair that is correct with the kept weights, shape (pairs,).
            state: Trainer's state at its end.

        Returns:
            `pairs`: number of minimal pairs. `max_drop`: the limit. `accuracy`: accuracy by step, where step 0 is
            before the first one. `most_lost`: `accuracy_drop_bound` by step. `paradigms`: by paradigm, number of pairs,
            accuracy before, accuracy after.

        Raises:
            RunError: no evaluation had weights that may be kept.
        """
        evaluations = {str(entry["step"]): entry for entry in state.log_history if GUARDED_LOSS_METRIC in entry}
        drop_bounds = {step: round(entry["eval_blimp_most_lost"], 5) for step, entry in evaluations.items()}
        if not state.best_global_step:
            raise self._no_weights_error(drop_bounds)
        names = np.array([pair.paradigm for pair in self.pairs])
        accuracies = {step: round(entry["eval_blimp"], 5) for step, entry in evaluations.items()}
        return {
            "pairs": len(names),
            "max_drop": self._max_drop,
            "accuracy": {"0": _mean(self._before), **accuracies},
            "most_lost": drop_bounds,
            "paradigms": {
                name: [int(np.sum(names == name)), _mean(self._before[names == name]), _mean(after[names == name])]
                for name in np.unique(names).tolist()
            },
        }

    def _no_weights_error(self, drop_bounds: dict[str, float]) -> RunError:
        best_step = min(drop_bounds, key=lambda step: drop_bounds[step])
        cause = (
            f"none of {len(drop_bounds)} evaluations kept the grammar: at the best of them (step {best_step}) up to "
            f"{drop_bounds[best_step]:.3f} of the accuracy on {len(self.pairs)} minimal pairs is lost (95% confidence)"
        )
        remedy = (
            "lower optimizer.learning_rate or eval_steps, add replay, kl or lora, or take more pairs or a larger "
            "max_drop; and name another output.path"
        )
        return RunError("blimp.max_drop", self._max_drop, cause, remedy)


def _mean(is_correct: np.ndarray) -> float:
    return round(float(is_correct.mean()), 5)

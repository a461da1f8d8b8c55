"""Thresholds of a multi-label classifier, and F1 at them."""

import numpy as np

# The best cut of a label with a handful of examples says little; none is taken from outside these.
_LOWEST, _HIGHEST = 0.05, 0.95


def best_thresholds(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The threshold of each label that gives the best F1, between 0.05 and 0.95.

    Args:
        scores: in [0, 1], shape (texts, labels).
        targets: 1 where a label holds, else 0, the same shape.

    Returns:
        float32 of shape (labels,); a label holds where its score reaches the threshold. 0.5 for one that no text has.
    """
    thresholds = np.full(scores.shape[1], 0.5, dtype=np.float32)
    for label in range(scores.shape[1]):
        positives = targets[:, label].sum()
        if not positives:
            continue
        order = np.argsort(-scores[:, label], kind="stable")
        ordered = scores[order, label]
        # Cut after each text: so many are called positive, and so many of them are.
        f1 = 2 * np.cumsum(targets[order, label]) / (np.arange(1, len(order) + 1) + positives)
        last_of_its_score = np.append(ordered[1:] < ordered[:-1], True)
        f1[~last_of_its_score] = -1
        cut = int(np.argmax(f1))
        below = ordered[cut + 1] if cut + 1 < len(ordered) else 0.0
        thresholds[label] = np.clip((ordered[cut] + below) / 2, _LOWEST, _HIGHEST)
    return thresholds


def f1_by_label(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """F1 of each label, shape (labels,); 0 where neither a text nor a score has it."""
    called = scores >= thresholds
    right = (called & (targets > 0)).sum(0)
    return 2 * right / np.maximum(called.sum(0) + targets.sum(0), 1)

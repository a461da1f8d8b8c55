"""Thresholds of a multi-label classifier, one for each label, and the F1 that they give."""

import numpy as np

# The best threshold on the few texts of a rare label says little about other texts: extreme ones are pulled in here.
_MIN_THRESHOLD, _MAX_THRESHOLD = 0.05, 0.95


def best_thresholds(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Finds the threshold of each label that gives the best F1, between 0.05 and 0.95.

    Args:
        scores: scores in [0, 1], shape (texts, labels).
        targets: 1 where a text has a label, else 0, same shape.

    Returns:
        float32 of shape (labels,). A text is given a label where its score reaches the threshold. A label that no text
        has gets 0.5.
    """
    thresholds = np.full(scores.shape[1], 0.5, dtype=np.float32)
    for label in range(scores.shape[1]):
        positives = targets[:, label].sum()
        if not positives:
            continue
        order = np.argsort(-scores[:, label], kind="stable")
        ordered = scores[order, label]
        # F1 of a threshold below each text, in falling order of scores: 2 TP / (texts called positive + positives).
        f1 = 2 * np.cumsum(targets[order, label]) / (np.arange(1, len(order) + 1) + positives)
        # No threshold lies between two texts of the same score.
        is_last_of_score = np.append(ordered[1:] < ordered[:-1], True)
        f1[~is_last_of_score] = -1
        cut = int(np.argmax(f1))
        below = ordered[cut + 1] if cut + 1 < len(ordered) else 0.0
        thresholds[label] = np.clip((ordered[cut] + below) / 2, _MIN_THRESHOLD, _MAX_THRESHOLD)
    return thresholds


def f1_by_label(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Computes F1 of each label; 0 for a label that no text has and none is given.

    Args:
        scores, targets: scores and true labels as for `best_thresholds`, shape (texts, labels).
        thresholds: threshold of each label, shape (labels,).

    Returns:
        Shape (labels,).
    """
    is_positive = scores >= thresholds
    true_positives = (is_positive & (targets > 0)).sum(0)
    return 2 * true_positives / np.maximum(is_positive.sum(0) + targets.sum(0), 1)

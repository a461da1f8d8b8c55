"""Time in which rows were with an engine, without the pauses between starts: a stopped job may go on days later."""

import numpy as np

# A shorter gap is a wait between two rows. A stop and the start of engines after it take longer.
_MIN_PAUSE_SECONDS = 10.0


def find_pauses(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Finds the pauses in which none of some spans ran.

    Args:
        starts: begin of each span, in seconds, shape (spans,); in any order.
        ends: end of each span.

    Returns:
        Begin and end of each pause, in seconds, shape (pauses, 2).
    """
    order = np.argsort(starts)
    busy_until, next_starts = np.maximum.accumulate(ends[order])[:-1], starts[order][1:]
    is_pause = next_starts - busy_until > _MIN_PAUSE_SECONDS
    return np.stack([busy_until[is_pause], next_starts[is_pause]], axis=1)


def active_seconds(starts: np.ndarray, ends: np.ndarray) -> float:
    """Length of the union of spans, which may overlap; begins and ends in seconds, shape (spans,)."""
    if not len(starts):
        return 0.0
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    # A span counts only from the latest end of the spans before it.
    busy_until = np.concatenate([starts[:1], np.maximum.accumulate(ends)[:-1]])
    return float(np.maximum(ends - np.maximum(starts, busy_until), 0).sum())

"""When rows were with engines, and when none was: a job may be stopped for days and go on."""

import numpy as np

# Shorter ones are waits between two rows, not a stop and the start of engines after it.
_PAUSE_SECONDS = 10.0


def pauses_of(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """From when to when none of some spans ran; in seconds, shape (pauses, 2)."""
    order = np.argsort(starts)
    busy_until, begins = np.maximum.accumulate(ends[order])[:-1], starts[order][1:]
    idle = begins - busy_until > _PAUSE_SECONDS
    return np.stack([busy_until[idle], begins[idle]], axis=1)


def active_seconds(starts: np.ndarray, ends: np.ndarray) -> float:
    """Length of the union of spans, which may overlap."""
    if not len(starts):
        return 0.0
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    # A span counts from where the longest of those before it ends.
    before = np.concatenate([starts[:1], np.maximum.accumulate(ends)[:-1]])
    return float(np.maximum(ends - np.maximum(starts, before), 0).sum())

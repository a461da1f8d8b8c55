"""Throughput of the last minutes, and an estimate of the time that is left.

Invariant: a rate counts only the time in which rows could finish (from the first engine on) and only rows that an
engine generated, and there is no estimate before enough time has passed to see long rows finish as well as short ones.
"""

import math
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

HISTORY_SECONDS = 600.0
"""length of the past from which the time left is estimated"""
RECENT_SECONDS = 60.0
"""length of the past of the current rates: short enough to see a change, long enough for rows that take a minute"""

# Rows that finish within one such step are stored as one moment, so that memory does not grow with the throughput.
_STEP_SECONDS = 1.0
# The history is cut into this many equal parts, each long enough to average over changes within a minute.
_PARTS = 5
# Student's t for a two-sided 90% interval, with _PARTS - 1 = 4 degrees of freedom.
_T_90 = 2.132

# No estimate before this many times the duration of the longest row has passed.
_MIN_LONGEST_ROWS = 2


@dataclass(frozen=True)
class Rates:
    """Rates of the last minute, per second: generated rows, output tokens, and output tokens of accepted rows."""

    rows: float = 0.0
    output_tokens: float = 0.0
    accepted_tokens: float = 0.0


@dataclass(frozen=True)
class Eta:
    """Seconds until the last row is finished, with a 90% interval.

    Attributes:
        seconds: the estimate.
        low: lower bound of the interval.
        high: upper bound of the interval; infinity where the rates vary so much that there is no bound.
    """

    seconds: float
    low: float
    high: float


class Pace:
    """Remembers when rows finished. One thread may add rows while another reads rates.

    A moment is a list of five numbers: time in seconds, rows, output tokens, accepted tokens, and the duration in
    seconds of the longest row.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = math.inf
        self._moments: deque[list[float]] = deque()

    def begin(self, at: float) -> None:
        """Starts the clock at `at` (seconds): the first engine is up. No rate counts the time before."""
        self._began = min(self._began, at)

    def add(self, at: float, rows: int, output_tokens: int, accepted_tokens: int, longest_seconds: float) -> None:
        """Adds rows that finished.

        Args:
            at: time at which they finished, in seconds of one clock; never before the time of the last call.
            rows: number of rows that were generated: others, which were refused, take an engine no time.
            output_tokens: number of their output tokens.
            accepted_tokens: number of output tokens of the accepted rows among them.
            longest_seconds: longest time that one of these rows was with its engine.
        """
        with self._lock:
            if self._moments and at - self._moments[-1][0] < _STEP_SECONDS:
                _, *before, longest = self._moments[-1]
                new = (rows, output_tokens, accepted_tokens)
                self._moments[-1][1:] = [*map(sum, zip(before, new, strict=True)), max(longest, longest_seconds)]
            else:
                self._moments.append([at, rows, output_tokens, accepted_tokens, longest_seconds])
            while at - self._moments[0][0] > HISTORY_SECONDS:
                self._moments.popleft()

    def rates(self, now: float) -> Rates:
        """Returns the rates of the minute before `now`; zero before the first row."""
        began, moments = self._since(now - RECENT_SECONDS)
        seconds = max(now - began, _STEP_SECONDS)
        return Rates(*(moments[:, 1:4].sum(axis=0) / seconds).tolist()) if len(moments) else Rates()

    def longest_row(self, now: float) -> float:
        """Returns the duration of the longest row of the history, in seconds; 0 before the first row."""
        _, moments = self._since(now - HISTORY_SECONDS)
        return float(moments[:, 4].max()) if len(moments) else 0.0

    def eta(self, now: float, left: float) -> Eta | None:
        """Estimates when `left` more rows will be generated, if the rest of the run is like the history.

        Returns None while there is too little history: as long as the first rows are still with the engines, the rows
        that are finished already are the short ones, and their rate is too high.

        The history is cut into equal parts. The differences between their rates give the standard error of the mean
        rate, and of the rate to come. At the end of a run the engines are no longer full, which no rate of the past
        shows: the upper bound adds the duration of the longest recent row.
        """
        began, moments = self._since(now - HISTORY_SECONDS)
        if left <= 0 or not len(moments):
            return None if left > 0 else Eta(0.0, 0.0, 0.0)
        span, longest = max(now - began, _STEP_SECONDS), float(moments[:, 4].max())
        if span < min(_MIN_LONGEST_ROWS * longest, HISTORY_SECONDS):
            return None
        rows, _ = np.histogram(moments[:, 0], _PARTS, (now - span, now), weights=moments[:, 1])
        rates = rows * _PARTS / span
        mean = float(rates.mean())
        if not mean:
            return None
        parts_to_come = left / mean * _PARTS / span
        # Prediction interval: the mean of _PARTS parts is uncertain, and so is the mean of the parts to come.
        error = _T_90 * float(rates.std(ddof=1)) * math.sqrt(1 / _PARTS + 1 / max(parts_to_come, 1.0))
        high = left / (mean - error) + longest if error < mean else math.inf
        return Eta(left / mean, left / (mean + error), high)

    def _since(self, start: float) -> tuple[float, np.ndarray]:
        """Returns when rows could first finish, and the moments from `start` on, shape (moments, 5)."""
        with self._lock:
            moments = [moment for moment in self._moments if moment[0] >= start]
        return max(start, self._began), np.array(moments).reshape(-1, 5)


def left_to_generate(left: int, in_flight: int, generated: int, refused: int) -> float:
    """Estimates how many of the rows that are left an engine will generate, if as many are refused as so far.

    Args:
        left: number of rows that are left.
        in_flight: number of these that are with engines. A refused row comes back at once, so that these are generated.
        generated: number of rows that were generated.
        refused: number of rows that ended without any generation.
    """
    share = refused / max(refused + generated + in_flight, 1)
    return in_flight + max(left - in_flight, 0) * (1 - share)

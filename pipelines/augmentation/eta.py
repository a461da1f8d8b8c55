"""How fast rows come to their end of late, and what that says of the time that is left."""

import math
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

HISTORY_SECONDS = 600.0
"""what is left is judged by so much of the past"""
RECENT_SECONDS = 60.0
"""rates of now are over this long: short enough to see a change, long enough for rows that take a minute"""

_GRAIN_SECONDS = 1.0
# The history in equal parts, few enough that what changes within a minute is within one; and Student's t for a 90%
# interval, with 4 degrees of freedom.
_PARTS = 5
_T_90 = 2.132

# So many times the longest row must have passed.
_GENERATIONS = 2


@dataclass(frozen=True)
class Rates:
    """Of the last minute, each a second."""

    rows: float = 0.0
    output_tokens: float = 0.0
    accepted_tokens: float = 0.0


@dataclass(frozen=True)
class Eta:
    """Seconds to the last row, and a 90% interval of them.

    Attributes:
        high: infinity where the rates vary so much that they set no bound.
    """

    seconds: float
    low: float
    high: float


class Pace:
    """Remembers when rows came to their end. One thread may add while another asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = math.inf
        self._moments: deque[list[float]] = deque()

    def begin(self, at: float) -> None:
        """Rows can come to their end from this time on, in seconds; no rate counts the time before."""
        self._began = min(self._began, at)

    def add(self, at: float, rows: int, output_tokens: int, accepted_tokens: int, longest_seconds: float) -> None:
        """Rows that came to their end.

        Args:
            at: when, in seconds of one clock; not before the last ones.
            longest_seconds: that one of them was with its engine.
        """
        with self._lock:
            if self._moments and at - self._moments[-1][0] < _GRAIN_SECONDS:
                _, *before, longest = self._moments[-1]
                new = (rows, output_tokens, accepted_tokens)
                self._moments[-1][1:] = [*map(sum, zip(before, new, strict=True)), max(longest, longest_seconds)]
            else:
                self._moments.append([at, rows, output_tokens, accepted_tokens, longest_seconds])
            while at - self._moments[0][0] > HISTORY_SECONDS:
                self._moments.popleft()

    def rates(self, now: float) -> Rates:
        """Those of the last minute before `now`; zero before the first row."""
        began, moments = self._since(now - RECENT_SECONDS)
        seconds = max(now - began, _GRAIN_SECONDS)
        return Rates(*(moments[:, 1:4].sum(axis=0) / seconds).tolist()) if len(moments) else Rates()

    def eta(self, now: float, left: int) -> Eta | None:
        """When `left` rows more will have come to their end, if the rest is like the history.

        None before there is one: while the rows that were handed out first are still with the engines, those that have
        ended already say nothing of the rate, for they are the short ones.

        The history is cut into equal parts. How their rates differ says how well their mean is known, and how far that
        of the time to come may lie from it. The last rows run while nothing follows them, which no rate tells: for
        about as long as the longest of late.
        """
        began, moments = self._since(now - HISTORY_SECONDS)
        if left <= 0 or not len(moments):
            return None if left > 0 else Eta(0.0, 0.0, 0.0)
        span, longest = max(now - began, _GRAIN_SECONDS), float(moments[:, 4].max())
        if span < min(_GENERATIONS * longest, HISTORY_SECONDS):
            return None
        rows, _ = np.histogram(moments[:, 0], _PARTS, (now - span, now), weights=moments[:, 1])
        rates = rows * _PARTS / span
        mean = float(rates.mean())
        if not mean:
            return None
        parts_to_come = left / mean * _PARTS / span
        error = _T_90 * float(rates.std(ddof=1)) * math.sqrt(1 / _PARTS + 1 / max(parts_to_come, 1.0))
        high = left / (mean - error) + longest if error < mean else math.inf
        return Eta(left / mean, left / (mean + error), high)

    def _since(self, start: float) -> tuple[float, np.ndarray]:
        """The moments from `start` on, and when rows could come to their end first."""
        with self._lock:
            moments = [moment for moment in self._moments if moment[0] >= start]
        return max(start, self._began), np.array(moments).reshape(-1, 5)

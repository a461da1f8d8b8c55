"""Figures of all rows from some of them, with their intervals. Rows are drawn without putting any back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta, t

CONFIDENCE = 0.90
# Rows from which on the slopes of a regression are worth their degrees of freedom.
_LEAST_FOR_SLOPES = 8


@dataclass(frozen=True)
class Interval:
    """A figure, and between what it lies with the probability `CONFIDENCE`."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Interval":
        """The same in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, exact: float) -> "Interval":
        """With something added that is known."""
        return Interval(self.value + exact, self.low + exact, self.high + exact)

    def at_most(self, bound: float) -> "Interval":
        """Without what is known to be impossible."""
        return Interval(min(self.value, bound), min(self.low, bound), min(self.high, bound))


@dataclass(frozen=True)
class Total:
    """A sum, its standard error, and the degrees of freedom of that."""

    value: float
    error: float
    degrees: float

    def interval(self) -> Interval:
        """By the logarithm: what is summed here is never below 0, and few rows miss the longest more often than not.

        Where the error is as large as the value it goes on as a plain sum, which is bounded where an exponent is not.
        """
        if not self.error:
            return Interval(self.value, self.value, self.value)
        value = max(self.value, 0.0)  # a line through few rows may tell of less
        half = float(t.ppf((1 + CONFIDENCE) / 2, self.degrees)) * self.error
        high = value * math.exp(half / value) if half < value else math.e * value + half - value
        return Interval(value, value**2 / high, high)


def count_of(count: int, seen: int, of: int) -> Interval:
    """How many of `of` rows are what `count` of the `seen` ones are, by Clopper and Pearson's exact interval.

    Raises:
        ValueError: none was seen, and there are some.
    """
    if seen == of:
        return Interval(count, count, count)
    if not seen:
        raise ValueError("a share of no rows")
    tail, rest = (1 - CONFIDENCE) / 2, of - seen
    low = beta.ppf(tail, count, seen - count + 1) if count else 0.0
    high = beta.ppf(1 - tail, count + 1, seen - count) if count < seen else 1.0
    return Interval(count + rest * count / seen, count + math.floor(rest * low), count + math.ceil(rest * high))


@dataclass(frozen=True)
class Known:
    """What is known of rows without running them to their end.

    Attributes:
        facts: the prompt's length, and whether the output is a long one; n x 2.
        first_tokens: of the output, up to where others were cut off; n.
    """

    facts: np.ndarray
    first_tokens: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[int, bool, int]]) -> "Known":
        """From length, whether it is long, and first tokens of each."""
        table = np.array(rows, dtype=float).reshape(-1, 3)
        return cls(table[:, :2], table[:, 2])


def total_of(
    values: np.ndarray, known: Known, begun: Known, mean_length: float, rows: float, of_token: float = 0.0
) -> Total:
    """The sum of a figure over all rows, from those that were run to their end: a regression estimate in two phases.

    What a figure has in common with the length of the prompt is known of all rows. Of all that were begun it is known
    what their first tokens come to, and what it has in common with whether the output is long (Cochran, Sampling
    Techniques, 12.6). Only the variance beyond these is left.

    Args:
        values: of the rows that were run, at least two.
        known: of the same rows.
        begun: of all rows that were begun, these among them.
        mean_length: of all prompts.
        rows: all of them.
        of_token: what of the figure each token of the output is.
    """
    n, m = len(values), len(begun.facts)
    left_by_first, first = _regression(values, known.facts[:, :1])
    beyond = values - of_token * known.first_tokens
    left, both = _regression(beyond, known.facts)
    mean = beyond.mean() + float(both @ (begun.facts.mean(0) - known.facts.mean(0)))
    mean += of_token * begun.first_tokens.mean() + float(first[0] * (mean_length - begun.facts[:, 0].mean()))
    variance = left * (1 / n - 1 / m) + left_by_first * max(1 / m - 1 / rows, 0.0)
    return Total(rows * mean, rows * math.sqrt(variance), max(n - 1 - int(np.count_nonzero(both)), 1))


def unless_too_few_differ(total: Total, values: np.ndarray, rows: float) -> Total:
    """The same, but where a figure came out alike in all rows that were run: others may be nothing like these.

    So many of them that, as often as an interval may be wrong, none would be among those that were run.
    """
    n = len(values)
    if np.ptp(values) or n >= rows:
        return total
    unseen = 1 - ((1 - CONFIDENCE) / 2) ** (1 / n)
    least = total.value * unseen / float(t.ppf((1 + CONFIDENCE) / 2, total.degrees))
    return replace(total, error=math.hypot(total.error, least))


def _regression(values: np.ndarray, known: np.ndarray) -> tuple[float, np.ndarray]:
    """The variance that is left by what is known, and its slopes; those of too few rows are 0.

    Each row is held against what the others say of it (the jackknife): few rows, and some far from the rest, fit
    themselves better than they would fit new ones.
    """
    n, slopes, rest = len(values), np.zeros(known.shape[1]), values - values.mean()
    columns = np.flatnonzero(np.ptp(known, axis=0)) if n >= _LEAST_FOR_SLOPES else np.array([], dtype=int)
    leverage = np.full(n, 1 / n)
    if columns.size:
        centred = known[:, columns] - known[:, columns].mean(0)
        inverse = np.linalg.pinv(centred)
        slopes[columns] = inverse @ rest
        rest = rest - centred @ slopes[columns]
        leverage += np.einsum("ij,ji->i", centred, inverse)
    return float(((rest / np.maximum(1 - leverage, 1 / n)) ** 2).mean()), slopes

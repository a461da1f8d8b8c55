"""Estimates for all rows from some of them, with intervals that hold the true figure with probability `CONFIDENCE`.

The intervals come from resampled rows: each row gets a random weight (Rubin's Bayesian bootstrap, 1981). Rows that were
not seen may differ from all that were seen. So the lower end is taken from resamples with one more row at the smallest
possible value, the upper end from resamples with one more row at the largest possible value (Learned-Miller and Thomas,
A New Confidence Interval for the Mean of a Bounded Random Variable, 2019). For a share this is the interval of Clopper
and Pearson.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

CONFIDENCE = 0.90
RESAMPLES = 1000
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Interval:
    """A figure, and the bounds between which it lies with probability `CONFIDENCE`."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Interval":
        """Returns the interval in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, exact: float) -> "Interval":
        """Returns the interval with a known figure added."""
        return Interval(self.value + exact, self.low + exact, self.high + exact)

    def at_most(self, bound: float) -> "Interval":
        """Returns the interval without the values above a known bound."""
        return Interval(min(self.value, bound), min(self.low, bound), min(self.high, bound))


@dataclass(frozen=True)
class Estimate:
    """A figure, and the values that it could have as well.

    Attributes:
        value: the figure.
        low_resamples: values that bound it from below, shape (RESAMPLES,).
        high_resamples: values that bound it from above, shape (RESAMPLES,).
    """

    value: float
    low_resamples: np.ndarray
    high_resamples: np.ndarray

    def times(self, factor: "Estimate") -> "Estimate":
        """Returns the product with a factor that was estimated independently."""
        return Estimate(
            self.value * factor.value,
            self.low_resamples * factor.low_resamples,
            self.high_resamples * factor.high_resamples,
        )

    def of_finite(self, rows_seen: int, rows: float) -> "Estimate":
        """Returns the estimate for so many rows in all: there is no doubt about those that were seen."""
        doubt = math.sqrt(max(1 - rows_seen / rows, 0.0))
        low, high = (
            self.value + doubt * (resamples - self.value) for resamples in (self.low_resamples, self.high_resamples)
        )
        return Estimate(self.value, low, high)

    def interval(self) -> Interval:
        """Returns the figure with its interval, which contains the figure and nothing below 0."""
        low, high = np.quantile(self.low_resamples, _TAIL), np.quantile(self.high_resamples, 1 - _TAIL)
        return Interval(self.value, max(min(float(low), self.value), 0.0), max(float(high), self.value))


def resample_weights(rows: int, random: np.random.Generator) -> np.ndarray:
    """Returns random weights of rows, shape (RESAMPLES, rows)."""
    return random.exponential(size=(RESAMPLES, rows))


def estimate_total(values: np.ndarray, rows: int, random: np.random.Generator) -> Estimate:
    """Estimates the sum of a figure over all rows from its values in a random sample of many rows."""
    weights = resample_weights(len(values), random)
    totals = rows * (weights @ values) / weights.sum(1)
    return Estimate(rows * float(values.mean()), totals, totals).of_finite(len(values), rows)


def estimate_count(count: int, rows_seen: int, rows: int) -> Interval:
    """Estimates how many of all rows have a property that `count` of the seen rows have.

    The interval is the exact one of Clopper and Pearson for the rows that were not seen.

    Raises:
        ValueError: no row was seen, and there are some.
    """
    if rows_seen == rows:
        return Interval(count, count, count)
    if not rows_seen:
        raise ValueError("no row was seen: a share cannot be estimated")
    unseen = rows - rows_seen
    low = beta.ppf(_TAIL, count, rows_seen - count + 1) if count else 0.0
    high = beta.ppf(1 - _TAIL, count + 1, rows_seen - count) if count < rows_seen else 1.0
    value = count + unseen * count / rows_seen
    return Interval(value, count + math.floor(unseen * low), count + math.ceil(unseen * high))

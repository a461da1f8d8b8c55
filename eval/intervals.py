"""Rates and differences of rates with 95% confidence intervals.

Invariant: no figure is made up. Where there are no observations a function raises, and where the data cannot show an
interval it is None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

_CONFIDENCE = 0.95
_RESAMPLES = 9_999
# Each resample draws every item anew, not three counts.
_RESAMPLES_OF_BOTH = 2_000


@dataclass(frozen=True)
class Rate:
    """Share of observations that have some property, with its Wilson score interval.

    Attributes:
        rate: the share, 0 to 1.
        low, high: ends of the interval.
        n: number of observations.
    """

    rate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Difference between two rates that were observed on the same items, in pairs.

    Attributes:
        difference: rate of the second less rate of the first.
        low, high: its interval, by a bootstrap over pairs; None where no pair differs or there is one pair only,
            because all resamples are then alike.
        n: number of pairs.
        only_first, only_second: number of pairs in which only the first, or only the second, has the property.
        p: two-sided p-value of McNemar's exact test, whose null hypothesis is that both numbers are equally likely.
    """

    difference: float
    low: float | None
    high: float | None
    n: int
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Change:
    """Change of a figure that is no rate of its own, such as a mean of rates, with its 95% interval.

    Attributes:
        value: the figure of the second less that of the first.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


def rate_of(successes: int, n: int) -> Rate:
    """Returns a share with its Wilson score interval (Wilson 1927), which holds near 0 and 1 too.

    Raises:
        ValueError: there are no observations.
    """
    if n < 1:
        raise ValueError("a rate needs at least one observation")
    interval = binomtest(successes, n).proportion_ci(_CONFIDENCE, method="wilson")
    return Rate(successes / n, float(interval.low), float(interval.high), n)


def paired_difference(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray, seed: int) -> Difference:
    """Compares two outcomes of each item.

    Args:
        first, second: outcomes, one for each item, in the same order.
        seed: seed of the bootstrap.

    Raises:
        ValueError: there are no items, or one side has more than the other.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or not one.size:
        raise ValueError(f"{one.size} and {two.size} observations are not pairs")
    change = two.astype(np.int64) - one
    only_first, only_second = int((change < 0).sum()), int((change > 0).sum())
    can_resample = change.size > 1 and (only_first or only_second)
    low, high = _bootstrap_counts(only_first, only_second, change.size, seed) if can_resample else (None, None)
    p = mcnemar_p_value(only_first, only_second)
    return Difference(float(change.mean()), low, high, int(change.size), only_first, only_second, p)


def mean_difference(differences: Sequence[Difference]) -> Change:
    """Averages differences that were observed on different items; each counts alike, whatever its number of items.

    The interval is that of a sum of independent means (normal approximation).

    Raises:
        ValueError: there are no differences.
    """
    if not differences:
        raise ValueError("a mean needs at least one difference")
    variances = [((each.only_first + each.only_second) / each.n - each.difference**2) / each.n for each in differences]
    value = sum(each.difference for each in differences) / len(differences)
    return change_of(value, sum(variances) ** 0.5 / len(differences))


def mean_over_seeds(parts: Sequence[tuple[np.ndarray, np.ndarray]], seed: int) -> Change:
    """Compares an outcome of each item with the outcomes of several repetitions, such as trainings with other seeds.

    The interval is a bootstrap that draws items and repetitions at once (Owen 2007, "The pigeonhole bootstrap", Annals
    of Applied Statistics 1). With few repetitions it is too narrow.

    Args:
        parts: parts of the items, each of which counts alike in the mean: the outcomes of its items, of shape (items,),
            and those of each repetition, of shape (repetitions, items).
        seed: seed of the bootstrap.

    Raises:
        ValueError: there are no parts, or one has no items or no repetitions, or their numbers do not fit.
    """
    repetitions = {seconds.shape[0] for _, seconds in parts}
    if len(repetitions) != 1 or any(not two.size or two.shape[1:] != one.shape for one, two in parts):
        raise ValueError(f"{[(one.shape, two.shape) for one, two in parts]} outcomes do not fit")
    draw = np.random.default_rng(seed)
    drawn = _shares(draw, *repetitions)
    values, means = [], np.zeros(_RESAMPLES_OF_BOTH)
    for first, seconds in parts:
        change = seconds.astype(float) - first
        values.append(change.mean())
        means += np.einsum("bs,bi,si->b", drawn, _shares(draw, len(first)), change, optimize=True) / len(parts)
    low, high = np.percentile(means, [50 * (1 - _CONFIDENCE), 50 * (1 + _CONFIDENCE)])
    return Change(float(np.mean(values)), float(low), float(high))


def _shares(draw: np.random.Generator, count: int) -> np.ndarray:
    """Draws `count` things with replacement, for each resample; returns how much of it each is."""
    return draw.multinomial(count, np.full(count, 1 / count), _RESAMPLES_OF_BOTH) / count


def change_of(value: float, error: float) -> Change:
    """Returns a change with the 95% interval of a normal distribution with this standard error."""
    margin = float(norm.ppf(0.5 + _CONFIDENCE / 2)) * error
    return Change(value, value - margin, value + margin)


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test; 1 where no pair differs.

    The test (McNemar 1947, in its exact form) looks at the pairs that differ. If neither side is better, each of them
    favours either side with probability 1/2: a binomial test.
    """
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def _bootstrap_counts(only_first: int, only_second: int, n: int, seed: int) -> tuple[float, float]:
    """Returns the percentile bootstrap interval (Efron 1979) of the mean of n changes, each -1, 0 or 1.

    To resample such changes with replacement is to draw, from a multinomial distribution, how many of each there are.
    So a resample is three numbers and not n.
    """
    shares = [only_first / n, only_second / n, (n - only_first - only_second) / n]
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)
    low, high = np.percentile((drawn[:, 1] - drawn[:, 0]) / n, [50 * (1 - _CONFIDENCE), 50 * (1 + _CONFIDENCE)])
    return float(low), float(high)

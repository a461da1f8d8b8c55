"""Rates and differences with their 95% intervals. Without observations there is no figure: that raises."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

_CONFIDENCE = 0.95
_RESAMPLES = 9_999
# Values drawn at a time, so that memory does not grow with the resamples.
_DRAWN_AT_ONCE = 10_000_000


@dataclass(frozen=True)
class Rate:
    """A share, 0 to 1, of `n` observations, with its Wilson interval."""

    rate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """How much more often something holds of the second than of the first, over the same observations.

    Attributes:
        difference: of the rates, second less first.
        low, high: its interval, by a paired bootstrap; None where no pair differs, or there is one alone: resampling
            tells nothing then.
        only_first, only_second: pairs of which one alone has it.
        p: of McNemar's exact test that it is as often the one as the other, two-sided.
    """

    difference: float
    low: float | None
    high: float | None
    n: int
    only_first: int
    only_second: int
    p: float


def rate_of(successes: int, n: int) -> Rate:
    """A share with its Wilson score interval.

    Raises:
        ValueError: there are no observations.
    """
    if n < 1:
        raise ValueError("a rate of no observations")
    interval = binomtest(successes, n).proportion_ci(_CONFIDENCE, method="wilson")
    return Rate(successes / n, float(interval.low), float(interval.high), n)


def paired_difference(first: Sequence[bool], second: Sequence[bool], seed: int) -> Difference:
    """Compares two outcomes of each observation.

    Raises:
        ValueError: there are no pairs, or one side has more than the other.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or not one.size:
        raise ValueError(f"{one.size} and {two.size} observations are no pairs")
    change = two.astype(np.int64) - one
    only_first, only_second = int((change < 0).sum()), int((change > 0).sum())
    telling = change.size > 1 and (only_first or only_second)
    low, high = _bootstrap_counts(only_first, only_second, change.size, seed) if telling else (None, None)
    p = mcnemar_p_value(only_first, only_second)
    return Difference(float(change.mean()), low, high, int(change.size), only_first, only_second, p)


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """McNemar's exact test, two-sided: the p-value. Where no pair differs it is 1."""
    differ = only_first + only_second
    return float(binomtest(only_first, differ, 0.5).pvalue) if differ else 1.0


def _bootstrap_counts(only_first: int, only_second: int, n: int, seed: int) -> tuple[float, float]:
    """`bootstrap_mean` of n changes of -1, 0 or 1: resampling those is drawing how many there are of each."""
    shares = [only_first / n, only_second / n, (n - only_first - only_second) / n]
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)
    low, high = np.percentile((drawn[:, 1] - drawn[:, 0]) / n, [50 * (1 - _CONFIDENCE), 50 * (1 + _CONFIDENCE)])
    return float(low), float(high)


def bootstrap_mean_interval(values: Sequence[float] | np.ndarray, seed: int) -> tuple[float, float]:
    """The interval of a mean, by percentiles of resampled means. Of paired data give the differences.

    Raises:
        ValueError: there are fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size < 2:
        raise ValueError(f"{values.size} values cannot be resampled")
    interval = bootstrap(
        (values,), np.mean, confidence_level=_CONFIDENCE, n_resamples=_RESAMPLES, method="percentile", vectorized=True,
        batch=max(_DRAWN_AT_ONCE // values.size, 1), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(interval.low), float(interval.high)

"""Figures of a whole from a sample in which its groups (strata) were drawn at different rates, with 95% intervals.

A rare group is drawn more often than its share, so that something is known about it. Each group then counts by its size
in the whole, not by its size in the sample.

Method of the intervals: for each group, the shares of its outcomes are drawn from their posterior (Dirichlet, with the
weight of one observation spread over the outcomes before any is seen; for two outcomes that is Jeffreys' prior). Each
draw gives one value of the figure; the interval holds the middle 95% of them, and the estimate. So it has a width where
all observations agree too. Groups are taken as large: where a sample is a whole group, the interval is about rows like
these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 10_000


@dataclass(frozen=True)
class Estimate:
    """Estimate of a figure of the whole, with its 95% interval.

    Attributes:
        value: the estimate.
        low, high: ends of the interval.
        n: number of observations.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Stratum:
    """Group of the whole, from which a sample was drawn at random.

    Attributes:
        size: number of members in the whole.
        counts: observed members by outcome; of two people an array by the outcomes of both. A member on which people
            are divided may count as a part of each outcome.
    """

    size: int
    counts: np.ndarray


def estimate(
    strata: Sequence[Stratum], figure: Callable[[np.ndarray], np.ndarray], seed: int = 0, n: int | None = None
) -> Estimate | None:
    """Estimates a figure of the whole.

    Args:
        strata: groups with at least one observation each; all counts have the same shape.
        figure: function of the members by group and outcome, shape (draws, groups, *outcomes), to one value for each
            draw.
        seed: seed of the draws.
        n: number of observations that the figure rests on; by default all.

    Returns:
        The estimate; None where the figure is not defined, such as a share of nothing.
    """
    sizes = np.array([stratum.size for stratum in strata], dtype=float)
    counts = np.array([stratum.counts for stratum in strata], dtype=float)
    groups, outcomes = len(strata), counts.shape[1:]
    flat = counts.reshape(groups, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        totals = sizes[:, None] * flat / flat.sum(1, keepdims=True)
        value = float(figure(totals.reshape(1, groups, *outcomes))[0])
    if np.isnan(value):
        return None
    generator = np.random.default_rng(seed)
    shares = np.stack([generator.dirichlet(row + 1 / row.size, _DRAWS) for row in flat], axis=1)
    drawn = figure((sizes[:, None] * shares).reshape(_DRAWS, groups, *outcomes))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, min(float(low), value), max(float(high), value), int(flat.sum()) if n is None else n)


def share_of(outcome: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the figure: share of an outcome in the whole, for strata with counts by one outcome."""
    return lambda totals: totals[:, :, outcome].sum(1) / totals.sum((1, 2))


def agreement(totals: np.ndarray) -> np.ndarray:
    """Figure: share of the members to which two people gave the same outcome, for counts by the outcomes of both."""
    table = totals.sum(1)
    return np.trace(table, axis1=1, axis2=2) / table.sum((1, 2))


def cohen_kappa(totals: np.ndarray) -> np.ndarray:
    """Figure: agreement of two people beyond chance (Cohen 1960), for counts by the outcomes of both.

    1 is full agreement, 0 is what two people reach who decide independently of what they see. It is not defined where
    both give one and the same outcome to everything.
    """
    table = totals.sum(1)
    shares = table / table.sum((1, 2), keepdims=True)
    observed, chance = np.trace(shares, axis1=1, axis2=2), (shares.sum(1) * shares.sum(2)).sum(1)
    return (observed - chance) / (1 - chance)


def calibration_error(probabilities: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the figure: mean distance between a probability and the share that has the first outcome, over bins.

    It is the expected calibration error (Naeini et al. 2015), for counts by bin and outcome.

    Args:
        probabilities: mean probability in each bin. Members in further bins have none, and count nowhere.
    """
    expected = np.asarray(probabilities)

    def figure(totals: np.ndarray) -> np.ndarray:
        table = totals.sum(1)[:, : len(expected)]
        rows = table.sum(2)
        return np.abs(table[:, :, 0] - rows * expected).sum(1) / rows.sum(1)

    return figure

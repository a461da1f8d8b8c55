"""Agreement of a labelling with readings of the same texts, beyond what chance gives: Cohen's kappa (Cohen 1960)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CONFIDENCE = 0.95
_RESAMPLES = 9_999


@dataclass(frozen=True)
class Agreement:
    """Agreement of a labelling with one or more readings.

    Attributes:
        kappa: Cohen's kappa, averaged over the readings: 1 is equal labels throughout, 0 what chance gives.
        low, high: its 95% interval, by a bootstrap over texts.
        equal: share of equal labels, averaged over the readings.
        n: number of texts.
    """

    kappa: float
    low: float
    high: float
    equal: float
    n: int


def agreement(labels: Sequence[str], readings: Sequence[Sequence[str]], seed: int) -> Agreement:
    """Compares labels with readings.

    Args:
        labels: label of each text.
        readings: for each reader the label of each text, in the same order.
        seed: seed of the bootstrap.

    Raises:
        ValueError: there are no texts or no readings, or a reading has another number of texts.
    """
    n = len(labels)
    if not n or not readings or any(len(reading) != n for reading in readings):
        raise ValueError(f"{n} labels and readings of {[len(reading) for reading in readings]} texts do not fit")
    numbers = {label: number for number, label in enumerate(sorted({*labels, *(x for r in readings for x in r)}))}
    one, *others = (np.eye(len(numbers))[[numbers[label] for label in each]] for each in (labels, *readings))
    weights = _weights(n, seed)
    kappas = np.mean([_kappas(one, other, weights) for other in others], axis=0)
    low, high = np.percentile(kappas[1:], [50 * (1 - _CONFIDENCE), 50 * (1 + _CONFIDENCE)])
    equal = float(np.mean([(one * other).sum(1).mean() for other in others]))
    return Agreement(float(kappas[0]), float(low), float(high), equal, n)


@functools.lru_cache(maxsize=2)
def _weights(n: int, seed: int) -> np.ndarray:
    """Returns the share of each text in each resample, shape (1 + resamples, texts); first the texts themselves."""
    resamples = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.vstack([np.ones((1, n)), resamples]) / n


def _kappas(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes Cohen's kappa of each weighting of the texts.

    Args:
        one, other: 1 where a text has a label, else 0, shape (texts, labels).
        weights: shape (weightings, texts), each row of sum 1.

    Returns:
        Shape (weightings,); 1 where both have the same one label for all texts, in which chance explains everything.
    """
    observed = weights @ (one * other).sum(1)
    expected = ((weights @ one) * (weights @ other)).sum(1)
    by_chance = np.isclose(expected, 1)
    return np.where(by_chance, 1.0, (observed - expected) / np.where(by_chance, 1.0, 1 - expected))

"""The mean length of a job's outputs, from outputs that were finished and others that were cut off early.

The beginning of an output, up to the limit at which others were cut off, is known for all rows that were begun. The
rest is known only for rows that ran to their end. So the mean length is the mean length of the beginnings, plus the
share of outputs that reach the limit times the mean length of their rests.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipelines.previewing.estimates import Estimate, resample_weights


@dataclass(frozen=True)
class OutputLengths:
    """Lengths of the outputs of a random sample of rows, in tokens.

    Attributes:
        beginning: tokens of each output up to its limit, shape (rows,); rows that ran to their end come first.
        is_long: whether each output reached its limit, shape (rows,).
        rest: tokens after the limit, of the outputs that ran to their end; shape (finished rows,).
        limit: the largest limit; 0 where no row was cut off early.
        max_tokens: the largest length that an output of the job may have.
    """

    beginning: np.ndarray
    is_long: np.ndarray
    rest: np.ndarray
    limit: int
    max_tokens: int

    def estimate_mean(self, rows: float, random: np.random.Generator) -> Estimate:
        """Estimates the mean length of the outputs of all `rows` rows of the job."""
        value = float(self._means(np.ones((1, len(self.beginning))))[0])
        weights = resample_weights(len(self.beginning) + 1, random)
        shortest, longest = self._with_row(0), self._with_row(self.max_tokens)
        mean = Estimate(value, shortest._means(weights), longest._means(weights))
        return mean.of_finite(len(self.rest), rows)

    def _with_row(self, tokens: int) -> "OutputLengths":
        beginning = min(tokens, self.limit)
        return replace(
            self,
            beginning=np.append(beginning, self.beginning),
            is_long=np.append(tokens >= self.limit, self.is_long),
            rest=np.append(tokens - beginning, self.rest),
        )

    def _means(self, weights: np.ndarray) -> np.ndarray:
        """Returns the mean length by each row of weights, shape (resamples,)."""
        finished = weights[:, : len(self.rest)] * self.is_long[: len(self.rest)]
        finished_weight = finished.sum(1)
        rests = np.zeros(len(weights))
        np.divide(finished @ self.rest, finished_weight, out=rests, where=finished_weight > 0)
        return (weights @ self.beginning + weights @ self.is_long * rests) / weights.sum(1)

"""Seconds that an engine spends on a step, an output token and a prompt token.

Invariant: the work done until a request ends follows from the schedule alone (`engine_steps`); the clock gives only the
seconds in which it was done.

The work is a vector: (steps, output tokens, prompt tokens). Three costs that are not negative explain the seconds
between the ends of requests, by least squares. A step has a cost of its own, so emptying engines are not taken to be as
efficient as full ones. Prompts have a cost of their own, because a preview, whose outputs are partly cut off, computes
more prompt tokens for each output token than the job.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from pipelines.previewing.engine_steps import simulate_steps

# Number of time spans that the costs are learned from. The speed of a machine varies slowly, so neighbouring short
# spans are alike, and only long spans show this variation. Where too few ends of requests lie a span apart (most
# outputs have the same length), more and shorter spans are tried.
_MAX_SPANS = (12, 24, 48)
_MIN_DEGREES_OF_FREEDOM = 3


@dataclass(frozen=True)
class ServedRequests:
    """Requests that one idle engine got at once, in the order in which it got them.

    Attributes:
        prompt_tokens: prompt tokens of each request that were not in the prefix cache.
        output_tokens: output tokens of each request.
        end_seconds: seconds from the start of the first request to the last token of each.
    """

    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    end_seconds: np.ndarray


@dataclass(frozen=True)
class StepCosts:
    """Costs of an engine's work.

    Attributes:
        seconds: seconds of a step, an output token and a prompt token, shape (3,).
        without_span: the same costs learned without one of the spans, for each span; shape (spans, 3).
    """

    seconds: np.ndarray
    without_span: np.ndarray

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom of `relative_error`."""
        return len(self.without_span) - len(self.seconds)

    def relative_error(self, work: np.ndarray) -> float:
        """Returns the standard error of the seconds of some work, divided by them: the jackknife over spans.

        A cost that only one span shows is unknown without this span, so the error is then large.
        """
        spans, seconds = len(self.without_span), self.without_span @ work
        error = math.sqrt((spans - 1) / spans * float(((seconds - seconds.mean()) ** 2).sum()))
        return error / float(self.seconds @ work)


def work_until_ends(
    prompt_tokens: Sequence[int], output_tokens: Sequence[int], slots: int, tokens_per_step: int
) -> np.ndarray:
    """Returns the work that an engine did until each request ended, in the order of the ends; shape (requests, 3).

    The arguments are those of `pipelines.previewing.engine_steps.simulate_steps`.
    """
    done, until_ends = np.zeros(3), []
    for group in simulate_steps(prompt_tokens, output_tokens, slots, tokens_per_step):
        done = done + np.array([group.steps, group.steps * group.running, group.prompt_tokens])
        until_ends += [done] * len(group.finished)
    return np.array(until_ends)


def learn_step_costs(requests: ServedRequests, slots: int, tokens_per_step: int) -> StepCosts | None:
    """Learns the costs that explain best when the requests ended.

    Returns:
        The costs, or None where there are too few ends of requests to learn from.
    """
    work = work_until_ends(requests.prompt_tokens.tolist(), requests.output_tokens.tolist(), slots, tokens_per_step)
    end_seconds = np.sort(requests.end_seconds)
    best = None
    for max_spans in _MAX_SPANS:
        span_work, span_seconds = _spans(work, end_seconds, max_spans)
        spans = len(span_seconds)
        if spans <= work.shape[1]:
            continue
        seconds = _fit(span_work, span_seconds)
        if not seconds.any():
            continue
        without_span = [_fit(np.delete(span_work, span, 0), np.delete(span_seconds, span)) for span in range(spans)]
        best = StepCosts(seconds, np.array(without_span))
        if best.degrees_of_freedom >= _MIN_DEGREES_OF_FREEDOM:
            break
    return best


def _fit(work: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Returns the non-negative least-squares costs; the variance of a span's seconds grows with its steps."""
    weights = 1 / np.sqrt(work[:, 0])
    costs, _ = nnls(work * weights[:, None], seconds * weights)
    return costs


def _spans(work: np.ndarray, end_seconds: np.ndarray, max_spans: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns work and seconds of each span between ends of requests that lie far enough apart."""
    steps = work[:, 0]
    min_steps, span_ends, begin = steps[-1] / max_spans, [], 0.0
    for number, step in enumerate(steps):
        is_last_of_step = number + 1 == len(steps) or steps[number + 1] > step
        if is_last_of_step and step - begin >= min_steps:
            span_ends.append(number)
            begin = step
    return np.diff(work[span_ends], axis=0, prepend=0), np.diff(end_seconds[span_ends], prepend=0)

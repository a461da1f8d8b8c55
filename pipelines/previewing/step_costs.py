"""What an engine's steps cost, learned from when its requests came to their end.

How many steps an engine did by then, with how many requests, and what prompts it computed in them, is known without a
clock (`pipelines.previewing.engine_steps`). A prompt token is taken to cost so much, and a step so much as a line tells
over the requests that run in it: an engine that is kept full shows little of how it bends, and little hangs on that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from pipelines.previewing.engine_steps import stretches

# Spans of time that are looked at, at most: what is slow for some steps is mostly slow for the next ones as well, and
# only between long spans that shows. Where too few ends lie far enough apart, shorter ones have to do.
_MOST_SPANS = (8, 16, 32)
_LEAST_DEGREES = 3


@dataclass(frozen=True)
class Wave:
    """Requests that came to one idle engine together, in their order.

    Attributes:
        prompt_tokens: of each, those that were not in the prefix cache.
        output_tokens: of each.
        finished: seconds from the first one's start to the last token of each.
    """

    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    finished: Sequence[float]


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a step at each knot of the line, and of a prompt token.

    Attributes:
        knots: running requests, where the line begins and ends; beyond them it is level.
        seconds: at each knot, and last those of a prompt token.
        covariance: of these estimates.
        noise: variance of the time of one step, beyond what the costs say.
        degrees: of freedom of these variances.
    """

    knots: tuple[int, ...]
    seconds: np.ndarray
    covariance: np.ndarray
    noise: float
    degrees: int

    def step(self, running: int) -> float:
        """Seconds of a step with so many requests, without prompts."""
        return float(shares(self.knots, running) @ self.seconds[:-1])


def shares(knots: Sequence[int], running: float) -> np.ndarray:
    """By how much each knot tells what a step with so many requests costs; adds up to 1."""
    return np.array([np.interp(running, knots, row) for row in np.eye(len(knots))])


def work_done(
    prompt_tokens: Sequence[int], output_tokens: Sequence[int], slots: int, batched: int, knots: Sequence[int]
) -> np.ndarray:
    """What an engine did until each request's end, in the order of these: steps by knot, and prompt tokens.

    The arguments but for `knots` are those of `pipelines.previewing.engine_steps.stretches`.
    """
    by_running = [shares(knots, running) for running in range(slots + 1)]
    done, ends = np.zeros(len(knots) + 1), []
    for each in stretches(prompt_tokens, output_tokens, slots, batched):
        done = done.copy()
        done[:-1] += each.steps * by_running[each.running]
        done[-1] += each.prompt_tokens
        ends += [done] * len(each.finished)
    return np.array(ends)


def step_costs(wave: Wave, slots: int, batched_tokens: int) -> StepCosts | None:
    """The costs that explain best when the requests ended; None where there is too little to learn from."""
    knots = tuple(sorted({1, min(len(wave.output_tokens), slots)}))
    ends = work_done(wave.prompt_tokens, wave.output_tokens, slots, batched_tokens, knots)
    finished = np.sort(wave.finished)
    fits = (_fitted(knots, *_between(ends, finished, spans)) for spans in _MOST_SPANS)
    found = [costs for costs in fits if costs is not None]
    enough = (costs for costs in found if costs.degrees >= _LEAST_DEGREES)
    return next(enough, max(found, key=lambda costs: costs.degrees, default=None))


def _fitted(knots: tuple[int, ...], work: np.ndarray, seconds: np.ndarray) -> StepCosts | None:
    # The variance of a span's time goes with its steps.
    weights = 1 / np.sqrt(work[:, :-1].sum(1))
    x, y = work * weights[:, None], seconds * weights
    costs, _ = nnls(x, y)
    used = np.flatnonzero(costs)
    degrees = len(y) - len(used)
    if not used.size or degrees < 1:
        return None
    covariance = np.zeros((len(costs), len(costs)))
    noise = float(((y - x @ costs) ** 2).sum()) / degrees
    covariance[np.ix_(used, used)] = noise * np.linalg.pinv(x[:, used].T @ x[:, used])
    return StepCosts(knots, costs, covariance, noise, degrees)


def _between(ends: np.ndarray, seconds: np.ndarray, spans: int) -> tuple[np.ndarray, np.ndarray]:
    """What was done, and how long it took, between ends that are far enough apart."""
    all_steps = ends[:, :-1].sum(1).round()
    least, kept, at = all_steps[-1] / spans, [], 0.0
    for number, steps in enumerate(all_steps):
        last_of_step = number + 1 == len(ends) or all_steps[number + 1] > steps
        if last_of_step and steps - at >= least:
            kept.append(number)
            at = steps
    return np.diff(ends[kept], axis=0, prepend=0), np.diff(seconds[kept], prepend=0)

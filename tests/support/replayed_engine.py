"""An engine whose steps take as long as those of a recorded run took, on a virtual clock.

The usual seconds of a step depend on the requests that run and the prompt tokens that it computes: medians over the
recorded steps. How much slower or faster than usual a step is follows the recorded order, so that whatever slowed the
machine down for a while slows this one down as well.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.previewing.engine_steps import simulate_steps

# The median over recorded steps with the same number of running requests is used from this number of steps on.
_MIN_STEPS = 5
# Steps that compute fewer prompt tokens are taken for steps without any.
_MIN_PROMPT_TOKENS = 128


class ReplayedEngine:
    """An engine that replays the steps of a recorded run.

    Args:
        seconds: seconds of each recorded step, in the recorded order.
        running: number of requests that got a token in each step.
        prompt_tokens: number of prompt tokens that each step computed.
        slots: number of requests that run at once.
        tokens_per_step: token budget of one step.
    """

    def __init__(
        self, seconds: np.ndarray, running: np.ndarray, prompt_tokens: np.ndarray, slots: int, tokens_per_step: int
    ) -> None:
        self._slots, self._tokens_per_step = slots, tokens_per_step
        plain = prompt_tokens < _MIN_PROMPT_TOKENS
        levels, counts = np.unique(running[plain], return_counts=True)
        levels = levels[counts >= _MIN_STEPS]
        medians = [np.median(seconds[plain & (running == level)]) for level in levels]
        self._usual = np.interp(np.arange(max(slots, running.max()) + 1), levels, medians)
        rest = (seconds - self._usual[running])[~plain] / prompt_tokens[~plain]
        self._prompt_token = max(float(np.median(rest)), 0.0) if rest.size else 0.0
        slower = seconds / (self._usual[running] + self._prompt_token * prompt_tokens)
        self._slower = np.concatenate([[0.0], np.cumsum(slower)])

    def run(self, prompt_tokens: Sequence[int], output_tokens: Sequence[int], start: int) -> np.ndarray:
        """Returns when each request ends, in seconds from the common start.

        Args:
            prompt_tokens: prompt tokens of each request that are not in the prefix cache.
            output_tokens: output tokens of each request.
            start: number of the recorded step that is replayed first; after the last one the first follows.
        """
        ends, now, at = np.zeros(len(output_tokens)), 0.0, start
        for group in simulate_steps(prompt_tokens, output_tokens, self._slots, self._tokens_per_step):
            usual = self._usual[group.running] + self._prompt_token * group.prompt_tokens
            now += usual * (self._slower_until(at + group.steps) - self._slower_until(at))
            at += group.steps
            ends[group.finished] = now
        return ends

    def _slower_until(self, step: int) -> float:
        rounds, rest = divmod(step, len(self._slower) - 1)
        return float(rounds * self._slower[-1] + self._slower[rest])

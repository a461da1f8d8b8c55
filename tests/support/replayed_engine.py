"""An engine whose steps take as long as those of a recorded run took, on a virtual clock.

What a step takes goes with the requests that run and the prompt tokens that it computes, as medians over the recorded
steps tell. How much slower or faster each recorded step was than that follows in the recorded order, so that whatever
held the machine up for a while holds this one up as well.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.previewing.engine_steps import stretches

# Recorded steps with the same number of running requests, from which on their median counts.
_LEAST_STEPS = 5
# Steps that compute fewer prompt tokens than these are taken for steps without any.
_LEAST_PROMPT_TOKENS = 128


class ReplayedEngine:
    """See the module.

    Args:
        seconds: of each recorded step, in their order.
        running: requests that got a token in it.
        prompt_tokens: that were computed in it.
        slots: requests that run at once.
        batched_tokens: that one step computes.
    """

    def __init__(
        self, seconds: np.ndarray, running: np.ndarray, prompt_tokens: np.ndarray, slots: int, batched_tokens: int
    ) -> None:
        self._slots, self._batched_tokens = slots, batched_tokens
        plain = prompt_tokens < _LEAST_PROMPT_TOKENS
        levels, counts = np.unique(running[plain], return_counts=True)
        levels = levels[counts >= _LEAST_STEPS]
        medians = [np.median(seconds[plain & (running == level)]) for level in levels]
        self._usual = np.interp(np.arange(max(slots, running.max()) + 1), levels, medians)
        rest = (seconds - self._usual[running])[~plain] / prompt_tokens[~plain]
        self._prompt_token = max(float(np.median(rest)), 0.0) if rest.size else 0.0
        slower = seconds / (self._usual[running] + self._prompt_token * prompt_tokens)
        self._slower = np.concatenate([[0.0], np.cumsum(slower)])

    def run(self, prompt_tokens: Sequence[int], output_tokens: Sequence[int], start: int) -> np.ndarray:
        """When each request ends, in seconds from the start of all.

        Args:
            prompt_tokens: of each, those that are not in the prefix cache.
            output_tokens: of each.
            start: number of the recorded step that is taken first; those after the last are the first again.
        """
        ends, now, at = np.zeros(len(output_tokens)), 0.0, start
        for each in stretches(prompt_tokens, output_tokens, self._slots, self._batched_tokens):
            usual = self._usual[each.running] + self._prompt_token * each.prompt_tokens
            now += usual * (self._slower_until(at + each.steps) - self._slower_until(at))
            at += each.steps
            ends[each.finished] = now
        return ends

    def _slower_until(self, step: int) -> float:
        rounds, rest = divmod(step, len(self._slower) - 1)
        return float(rounds * self._slower[-1] + self._slower[rest])

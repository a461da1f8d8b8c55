"""Steps of a continuously batching engine: the requests that each step runs, without the seconds that it takes.

Invariant: every request is begun once, in its order, and gets one token in each step until its last one.

In each step every running request gets one token. Waiting requests begin where a slot is free and the step's token
budget has space for their prompts. The schedule does not depend on the speed of the engine.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepGroup:
    """Consecutive steps that run the same requests.

    Attributes:
        steps: number of steps.
        running: number of requests that get a token in each step.
        prompt_tokens: prompt tokens computed in the group; only a group of one step computes any.
        finished: numbers of the requests whose last token is written in the last step.
    """

    steps: int
    running: int
    prompt_tokens: int
    finished: list[int]


def simulate_steps(
    prompt_tokens: Sequence[int], output_tokens: Sequence[int], slots: int, tokens_per_step: int
) -> Iterator[StepGroup]:
    """Simulates an engine that gets all requests at once and begins them in their order.

    Args:
        prompt_tokens: prompt tokens of each request that are not in the prefix cache.
        output_tokens: output tokens of each request, at least 1.
        slots: number of requests that run at once.
        tokens_per_step: token budget of one step. A prompt that does not fit into the rest of it waits for the next
            step, unless it is the first prompt of its step.
    """
    running: list[tuple[int, int]] = []  # heap of (step of the last token, number of the request)
    step = waiting = 0
    while running or waiting < len(output_tokens):
        budget, begun_tokens = tokens_per_step - len(running), 0
        while (
            waiting < len(output_tokens)
            and len(running) < slots
            and (prompt_tokens[waiting] <= budget or not begun_tokens)
        ):
            begun_tokens += prompt_tokens[waiting]
            budget -= prompt_tokens[waiting]
            heapq.heappush(running, (step + output_tokens[waiting], waiting))
            waiting += 1
        can_begin_more = waiting < len(output_tokens) and len(running) < slots
        # Nothing changes until the next request ends, unless prompts were computed or wait for the next step.
        steps = 1 if begun_tokens or can_begin_more else running[0][0] - step
        step, requests, finished = step + steps, len(running), []
        while running and running[0][0] <= step:
            finished.append(heapq.heappop(running)[1])
        yield StepGroup(steps, requests, begun_tokens, finished)

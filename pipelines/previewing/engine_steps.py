"""What a continuously batching engine does step by step, without the time that it takes.

In each step every running request gets one token, and waiting ones are begun where a slot is free and the step has room
for their prompts. Nothing of it depends on how fast the engine is.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """Steps that follow each other and are alike.

    Attributes:
        steps: their number.
        running: requests that get a token in each.
        prompt_tokens: computed in them; only a stretch of one step has any.
        finished: numbers of the requests whose last token this stretch writes.
    """

    steps: int
    running: int
    prompt_tokens: int
    finished: list[int]


def stretches(
    prompt_tokens: Sequence[int], output_tokens: Sequence[int], slots: int, batched_tokens: int
) -> Iterator[Stretch]:
    """Runs requests that all wait from the start, in their order.

    Args:
        prompt_tokens: of each request, those that are not in the prefix cache.
        output_tokens: of each, at least 1.
        slots: requests that run at once.
        batched_tokens: that one step computes. A prompt that finds less room left waits for the next step.
    """
    ends: list[tuple[int, int]] = []  # of what runs: step of the last token, and number
    step = waiting = 0
    while ends or waiting < len(output_tokens):
        room, begun = batched_tokens - len(ends), 0
        while waiting < len(output_tokens) and len(ends) < slots and (prompt_tokens[waiting] <= room or not begun):
            begun += prompt_tokens[waiting]
            room -= prompt_tokens[waiting]
            heapq.heappush(ends, (step + output_tokens[waiting], waiting))
            waiting += 1
        more = waiting < len(output_tokens) and len(ends) < slots
        steps = 1 if begun or more else ends[0][0] - step
        step, running, finished = step + steps, len(ends), []
        while ends and ends[0][0] <= step:
            finished.append(heapq.heappop(ends)[1])
        yield Stretch(steps, running, begun, finished)

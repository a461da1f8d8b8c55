"""How long the engines of a job take for rows of which some were run.

Time is what the engine's steps cost, as learned from the ends of its requests (step_costs.py), for the steps that the
job takes with its engines full; and what those do not explain is an interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.previewing.estimates import Known, Total, total_of, unless_too_few_differ
from pipelines.previewing.step_costs import Wave, shares, step_costs, work_done

# A job's begin and end are simulated this often, with this many rows for each slot; what lies between is a sum.
_SIMULATED, _ROWS_PER_SLOT = 8, 4


@dataclass(frozen=True)
class EngineSize:
    """What bounds an engine's batches.

    Attributes:
        slots: requests that it runs at once.
        batched_tokens: of one step.
        block: tokens in a block of its prefix cache; 0: it has none.
        cache_tokens: that all requests together may hold; None where nothing bounds them.
    """

    slots: int
    batched_tokens: int
    block: int = 0
    cache_tokens: int | None = None

    @classmethod
    def of(cls, slots: int, settings: dict[str, Any]) -> "EngineSize":
        """What a started engine tells of itself; one that tells less is bounded by its slots alone."""
        caches = settings.get("enable_prefix_caching")
        block = settings.get("block_size", 0) if caches else 0
        return cls(slots, settings.get("max_num_batched_tokens", _UNBOUNDED), block, settings.get("kv_cache_tokens"))


_UNBOUNDED = 1 << 30


@dataclass(frozen=True)
class Sample:
    """Rows of a job: those that were run to their end, as arrays of equal length, and what is known of others.

    Attributes:
        characters: of their prompts.
        shared: leading ones that the prompt of another row of the job has as well.
        cached: prompt tokens that were in the prefix cache.
        most_tokens: that an output may have.
        known: of the same rows, and `begun` of all rows that were begun, these among them.
        mean_characters: of all prompts of the job.
        rows: of the whole job.
    """

    characters: np.ndarray
    shared: np.ndarray
    prompt_tokens: np.ndarray
    cached: np.ndarray
    output_tokens: np.ndarray
    most_tokens: float
    known: Known
    begun: Known
    mean_characters: float
    rows: float

    def total(self, values: np.ndarray, of_token: float = 0.0) -> Total:
        """The sum of a figure over the whole job; see `total_of`."""
        return total_of(values, self.known, self.begun, self.mean_characters, self.rows, of_token)

    def total_by_output(self, of_token: float = 1.0, besides: np.ndarray | float = 0.0) -> Total:
        """The sum of a figure that is so much for each output token, and something besides.

        The next row has the longest output of all with the probability 1 / (n + 1), so the doubt is that of one row
        more: as much longer than the longest as long ones went on, on average, when others were cut off.
        """
        tokens, n = self.output_tokens, len(self.output_tokens)
        total = unless_too_few_differ(self.total(tokens * of_token + besides, of_token), tokens, self.rows)
        if n >= self.rows:
            return total
        long, went_on = self.known.facts[:, 1] > 0, tokens - self.known.first_tokens
        if not long.any():
            long, went_on = np.full(n, True), tokens
        more = min(tokens.max() + went_on[long].mean(), self.most_tokens) - tokens[long].mean()
        return replace(total, error=math.hypot(total.error, self.rows * of_token * more / n))


def serving_time(sample: Sample, wave: Wave, replicas: int, size: EngineSize, seed: int) -> Total | None:
    """Seconds in which the replicas run all rows; None where too little was seen to tell.

    Args:
        wave: all requests of the engine that was watched.
        seed: of what is drawn to simulate the job's end.
    """
    costs = step_costs(wave, size.slots, size.batched_tokens)
    if costs is None:
        return None
    uncached = uncached_tokens(sample, size)
    slots = usual_slots(sample, uncached, size)
    of_token = costs.step(slots) / slots
    work = sample.total_by_output(of_token, uncached * costs.seconds[-1])
    ramps = not_full(sample, uncached, replicas, slots, size.batched_tokens, costs.knots, seed)
    extra = ramps @ costs.seconds[:-1]
    late = _latest(extra, replicas)
    tokens, prompts = (each.value / replicas for each in (sample.total_by_output(), sample.total(uncached)))
    use = np.append(tokens / slots * shares(costs.knots, slots) + ramps.mean(0), prompts)
    of_rows = (work.error / replicas) ** 2
    of_steps = use @ costs.covariance @ use + costs.noise * max(use[:-1].sum(), 0.0)
    variance = of_rows + of_steps + extra.var()
    # Welch and Satterthwaite's, of a sum of variances that are known with different certainty.
    certainty = of_rows**2 / work.degrees + of_steps**2 / costs.degrees
    degrees = variance**2 / certainty if certainty else work.degrees
    return Total(float(work.value / replicas + late), math.sqrt(variance), degrees)


def uncached_tokens(sample: Sample, size: EngineSize) -> np.ndarray:
    """Prompt tokens of each row that an engine computes once it has seen prompts of all kinds."""
    if not size.block:
        return sample.prompt_tokens
    shared = sample.shared * sample.prompt_tokens / np.maximum(sample.characters, 1)
    blocks = np.minimum(shared // size.block, (sample.prompt_tokens - 1) // size.block)
    return sample.prompt_tokens - np.maximum(blocks * size.block, sample.cached).astype(int)


def usual_slots(sample: Sample, uncached: np.ndarray, size: EngineSize) -> int:
    """Requests that run at once: as many as may, or as have room in the cache for what no other one has."""
    if size.cache_tokens is None:
        return size.slots
    held = float((uncached + sample.output_tokens / 2).mean())
    return max(min(size.slots, int(size.cache_tokens / held)), 1)


def not_full(
    sample: Sample,
    uncached: np.ndarray,
    replicas: int,
    slots: int,
    batched: int,
    knots: Sequence[int],
    seed: int,
) -> np.ndarray:
    """Steps by knot that an engine does beyond those of one that is always full: as it fills, and as its last rows run.

    Drawn values, a row each.
    """
    draw, full = np.random.default_rng(seed), shares(knots, slots) / slots
    number = max(min(round(sample.rows / replicas), _ROWS_PER_SLOT * slots), 1)
    found = []
    for _ in range(_SIMULATED):
        drawn = draw.integers(len(sample.output_tokens), size=number)
        tokens = sample.output_tokens[drawn]
        done = work_done(uncached[drawn].tolist(), tokens.tolist(), slots, batched, knots)[-1]
        found.append(done[:-1] - tokens.sum() * full)
    return np.array(found)


def _latest(extra: np.ndarray, replicas: int) -> float:
    """Of several replicas the last one to end counts."""
    return float(extra.mean() if replicas == 1 else np.quantile(extra, replicas / (replicas + 1)))

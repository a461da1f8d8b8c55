"""Seconds in which the engines of a job serve all rows, estimated from rows that one engine ran.

The seconds are the costs of the work (`step_costs`): the job's output tokens and prompt tokens, and the steps of full
engines that these tokens take, plus the steps in which an engine fills up at its start and empties at its end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.previewing.engine_steps import simulate_steps
from pipelines.previewing.estimates import RESAMPLES, Estimate
from pipelines.previewing.step_costs import ServedRequests, learn_step_costs

# Start and end of a job are simulated so often, with so many rows for each slot: between them the engine is full.
_SIMULATIONS, _ROWS_PER_SLOT = 8, 4
_UNLIMITED = 1 << 30


@dataclass(frozen=True)
class EngineSize:
    """Limits of an engine's batches.

    Attributes:
        slots: number of requests that it runs at once.
        tokens_per_step: token budget of one step.
        block_tokens: tokens in a block of its prefix cache; 0 where it has none.
        cache_tokens: tokens that the cache holds for all requests together; None where that is unlimited.
    """

    slots: int
    tokens_per_step: int
    block_tokens: int = 0
    cache_tokens: int | None = None

    @classmethod
    def of(cls, slots: int, settings: dict[str, Any]) -> "EngineSize":
        """Reads the settings that a started engine reports; a setting that it does not report limits nothing."""
        has_cache = settings.get("enable_prefix_caching")
        return cls(
            slots,
            settings.get("max_num_batched_tokens", _UNLIMITED),
            settings.get("block_size", 0) if has_cache else 0,
            settings.get("kv_cache_tokens"),
        )


@dataclass(frozen=True)
class SampledRows:
    """Sampled rows that ran to their end, as arrays of equal length.

    Attributes:
        characters: length of each prompt in characters.
        shared_characters: leading characters that the prompt of another row of the job has as well.
        prompt_tokens: tokens of each prompt.
        cached_tokens: prompt tokens that were in the prefix cache.
        output_tokens: tokens of each output.
    """

    characters: np.ndarray
    shared_characters: np.ndarray
    prompt_tokens: np.ndarray
    cached_tokens: np.ndarray
    output_tokens: np.ndarray


def estimate_serving_time(
    sample: SampledRows,
    rows: Estimate,
    output_tokens: Estimate,
    requests: ServedRequests,
    replicas: int,
    size: EngineSize,
    random: np.random.Generator,
) -> Estimate | None:
    """Estimates the seconds until the last of the job's replicas has served its last row.

    Args:
        sample: rows of the job.
        rows: number of rows that the job generates.
        output_tokens: output tokens of the whole job.
        requests: all requests that the engine served while it was measured.

    Returns:
        The estimate, or None where the requests say too little about the engine's costs.
    """
    costs = learn_step_costs(requests, size.slots, size.tokens_per_step)
    if costs is None:
        return None
    uncached = uncached_tokens(sample, size)
    slots = usual_slots(sample, uncached, size)
    rows_of_replica = max(round(rows.value / replicas), 1)
    extra = _extra_steps(sample.output_tokens, uncached, rows_of_replica, slots, size.tokens_per_step, random)
    # The job ends when its slowest replica does.
    extra_resamples = random.choice(extra, (RESAMPLES, replicas)).max(1)

    def work(rows: Any, tokens: Any, extra_steps: Any) -> np.ndarray:
        """Returns the work of one replica."""
        prompts = rows * uncached.mean()
        return np.stack([tokens / slots / replicas + extra_steps, tokens / replicas, prompts / replicas], axis=-1)

    usual = work(np.float64(rows.value), np.float64(output_tokens.value), extra_resamples.mean())
    speed = 1 + costs.relative_error(usual) * random.standard_t(costs.degrees_of_freedom, RESAMPLES)
    low, high = (
        speed * (work(number, tokens, extra_resamples) @ costs.seconds)
        for number, tokens in (
            (rows.low_resamples, output_tokens.low_resamples),
            (rows.high_resamples, output_tokens.high_resamples),
        )
    )
    return Estimate(float(usual @ costs.seconds), low, high)


def uncached_tokens(sample: SampledRows, size: EngineSize) -> np.ndarray:
    """Returns the prompt tokens of each row that an engine computes once its cache has prompts of all kinds."""
    if not size.block_tokens:
        return sample.prompt_tokens
    tokens_per_character = sample.prompt_tokens / np.maximum(sample.characters, 1)
    # An engine computes at least the last token of a prompt, and caches whole blocks only.
    blocks = np.minimum(
        sample.shared_characters * tokens_per_character // size.block_tokens,
        (sample.prompt_tokens - 1) // size.block_tokens,
    )
    return sample.prompt_tokens - np.maximum(blocks * size.block_tokens, sample.cached_tokens).astype(int)


def usual_slots(sample: SampledRows, uncached: np.ndarray, size: EngineSize) -> int:
    """Returns the number of requests that run at once: the engine's limit, or fewer where its cache holds fewer."""
    if size.cache_tokens is None:
        return size.slots
    # A running request has half of its output on average, and shares the cached part of its prompt.
    held_tokens = float((uncached + sample.output_tokens / 2).mean())
    return max(min(size.slots, int(size.cache_tokens / held_tokens)), 1)


def _extra_steps(
    output_tokens: np.ndarray,
    uncached: np.ndarray,
    rows: int,
    slots: int,
    tokens_per_step: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Returns steps beyond those of an engine that is always full, one number for each simulation of one replica."""
    extra = []
    for _ in range(_SIMULATIONS):
        picked = random.integers(len(output_tokens), size=min(rows, _ROWS_PER_SLOT * slots))
        tokens = output_tokens[picked]
        groups = simulate_steps(uncached[picked].tolist(), tokens.tolist(), slots, tokens_per_step)
        extra.append(sum(group.steps for group in groups) - tokens.sum() / slots)
    return np.array(extra)

"""What identifies a run: every job key but the few that can only change its speed or where it is seen."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that change neither text nor layout. A whole section is named by its first part alone.
SPEED_KEYS = frozenset({"name", "cluster", "metrics", "resources", "output.path", "input.storage_options"})

# vLLM engine arguments that only change speed or memory. All others (max_model_len, dtype, load_format, ...) can
# change what is written. https://docs.vllm.ai/en/latest/configuration/engine_args/
ENGINE_SPEED_KEYS = frozenset(
    {
        "block_size",
        "disable_log_stats",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "max_parallel_loading_workers",
        "pipeline_parallel_size",
        "scheduling_policy",
        "swap_space",
        "tensor_parallel_size",
    }
)


def identity_of(job: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """The flat identity of a run.

    Args:
        job: the resolved job as plain JSON values.
        facts: what the job file does not say itself: hashes of the prompt and of the input files.

    Returns:
        `{"input.limit": 200, ...}`, without the keys that only change speed.
    """
    flat = {**_flatten(job), **_flatten(facts)}
    return {key: value for key, value in sorted(flat.items()) if not _only_speed(key)}


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 over the identity's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line a key that differs: `sampling.temperature: 0.9 -> 0.7`."""
    absent = "(absent)"
    return [
        f"{key}: {_shown(old.get(key, absent))} -> {_shown(new.get(key, absent))}"
        for key in sorted({*old, *new})
        if old.get(key, absent) != new.get(key, absent)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _only_speed(key: str) -> bool:
    section, _, rest = key.partition(".")
    if section == "engine":
        return rest.partition(".")[0] in ENGINE_SPEED_KEYS or not rest
    return section in SPEED_KEYS or any(key == speed or key.startswith(speed + ".") for speed in SPEED_KEYS)


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else text[:77] + "..."

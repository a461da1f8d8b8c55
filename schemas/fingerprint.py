"""The identity of a run, and its fingerprint.

Invariant: two jobs with the same fingerprint write the same rows into the same shards. Every key is part of the
identity, except the few that are known to change only the speed of a job, or the place where it is seen.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that change neither text nor layout. The name of a section stands for all keys in it.
SPEED_KEYS = frozenset(
    {"name", "budget", "cluster", "metrics", "resources", "output.path", "input.storage_options", "target_accepted"}
)

# vLLM engine arguments that only change speed or memory. All others (max_model_len, dtype, load_format, ...) can change
# the texts. An argument that is missing here makes a resume stricter than needed, and never wrong.
# https://docs.vllm.ai/en/latest/configuration/engine_args/
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
    """Returns the flat identity of a run, `{"input.limit": 200, ...}`, without the keys that only change speed.

    Args:
        job: resolved job as plain JSON values.
        facts: values that the job file does not hold itself: hashes of the prompt and of the input files.
    """
    flat = {**_flatten(job), **_flatten(facts)}
    return {key: value for key, value in sorted(flat.items()) if not _only_speed(key)}


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Returns the sha256 of the identity's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns one line for each key that differs between two identities: `sampling.temperature: 0.9 -> 0.7`."""
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

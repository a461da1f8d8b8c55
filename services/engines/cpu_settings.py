"""Settings of an engine on a CPU, where vLLM leaves the choice to whoever starts it.

Each setting is explained at https://docs.vllm.ai/en/latest/getting_started/installation/cpu/; docs/performance.md has
measurements of what each gains.
"""

import glob
import os
import sys
from typing import Any

from services.engines.cpu_cores import one_thread_per_core
from services.engines.engine import EngineSpec

# Engine arguments for keys that the job file leaves out. Eager mode: compiling takes longer than most CPU jobs run.
CPU_DEFAULTS: dict[str, Any] = {"max_num_seqs": 64, "kv_cache_memory_bytes": 2 << 30, "enforce_eager": True}

_BIND = "VLLM_CPU_OMP_THREADS_BIND"
_PRELOAD = "LD_PRELOAD"
# The C library's allocator returns memory pages to the system and requests them again in each step of the engine;
# tcmalloc keeps them.
_ALLOCATORS = (
    "/usr/lib/*/libtcmalloc_minimal.so.4",
    "/usr/lib*/libtcmalloc_minimal.so.4",
    "/usr/local/lib/libtcmalloc_minimal.so.4",
    f"{sys.prefix}/lib/libtcmalloc_minimal.so.4",
)


def set_cpu_environment(spec: EngineSpec) -> None:
    """Sets the environment variables of the engine's processes; to be called before they are started."""
    if spec.cores:
        # Without this every engine of a machine binds itself from core 0 on. "|" separates the ranks of one engine.
        ranks = int(spec.engine.get("tensor_parallel_size", 1))
        cores = one_thread_per_core(spec.cores)
        per_rank = max(len(cores) // ranks, 1)
        parts = [cores[rank * per_rank : (rank + 1) * per_rank] for rank in range(ranks)]
        os.environ[_BIND] = "|".join(",".join(map(str, part)) for part in parts)
    preloaded = os.environ.get(_PRELOAD, "")
    allocator = find_allocator()
    # An allocator that the user preloads already (jemalloc, say) stays.
    if allocator and "malloc" not in preloaded:
        os.environ[_PRELOAD] = f"{allocator}:{preloaded}" if preloaded else allocator


def find_allocator() -> str | None:
    """Returns the path of tcmalloc on this machine, or None where it is not installed."""
    return next((path for pattern in _ALLOCATORS for path in sorted(glob.glob(pattern))), None)


def cpu_environment() -> dict[str, str]:
    """Returns the variables that `set_cpu_environment` chose; kept in run.json."""
    return {name: os.environ[name] for name in (_BIND, _PRELOAD) if os.environ.get(name)}

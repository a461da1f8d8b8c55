"""What an engine gets on a CPU, where vLLM leaves the choice to whoever starts it.

https://docs.vllm.ai/en/latest/getting_started/installation/cpu/ tells what each does; docs/performance.md what it
gained where it was measured.
"""

import glob
import os
import sys
from typing import Any

from services.engines.cpu_cores import one_thread_of_each
from services.engines.engine import EngineSpec

# Where the job file is silent. Eager mode: compiling takes longer than most CPU jobs run.
CPU_DEFAULTS: dict[str, Any] = {"max_num_seqs": 64, "kv_cache_memory_bytes": 2 << 30, "enforce_eager": True}

_BIND = "VLLM_CPU_OMP_THREADS_BIND"
_PRELOAD = "LD_PRELOAD"
# The C library's allocator gives pages back and takes them again with each step of the engine; these keep them.
_ALLOCATORS = (
    "/usr/lib/*/libtcmalloc_minimal.so.4",
    "/usr/lib*/libtcmalloc_minimal.so.4",
    "/usr/local/lib/libtcmalloc_minimal.so.4",
    f"{sys.prefix}/lib/libtcmalloc_minimal.so.4",
)


def prepare_cpu(spec: EngineSpec) -> None:
    """Sets what the engine's processes, which are started after this, take from the environment."""
    if spec.cores:
        # Without this every engine of a machine binds itself from core 0 on. Ranks of one engine are split by "|".
        ranks = int(spec.engine.get("tensor_parallel_size", 1))
        cores = one_thread_of_each(spec.cores)
        share = max(len(cores) // ranks, 1)
        parts = [cores[rank * share : (rank + 1) * share] for rank in range(ranks)]
        os.environ[_BIND] = "|".join(",".join(map(str, part)) for part in parts)
    given = os.environ.get(_PRELOAD, "")
    found = next((path for pattern in _ALLOCATORS for path in sorted(glob.glob(pattern))), None)
    if found and "malloc" not in given:
        os.environ[_PRELOAD] = f"{found}:{given}" if given else found


def cpu_environment() -> dict[str, str]:
    """What was chosen, for run.json."""
    return {name: os.environ[name] for name in (_BIND, _PRELOAD) if os.environ.get(name)}

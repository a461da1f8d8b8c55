"""`kindling pool start|list|stop`: engines that stay up between jobs."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.jobfile import as_job
from schemas.augment import AugmentJob
from schemas.errors import EngineError
from services.cluster import connect_to_ray
from services.replicas import warm_pool
from services.replicas.warm_pool import PoolState

_log = logging.getLogger("kindling")


def start_pool(
    job: AugmentJob | Mapping[str, Any] | str | Path, name: str | None = None, idle_minutes: float = 60.0
) -> None:
    """Starts the engines that a job asks for, and leaves them running for every job with the same `model` and `engine`.

    Args:
        job: its `model`, `engine` and `cluster` are used, and nothing else.
        name: of the pool; by default the job's.
        idle_minutes: the pool ends itself after so long without a job.

    Raises:
        EngineError: there is no cluster that would outlive this call, a pool of that name runs, or an engine fails.
    """
    job = as_job(job)
    if idle_minutes <= 0:
        raise EngineError("--idle-minutes", idle_minutes, "a pool that may not idle ends at once", "give some minutes")
    began = time.monotonic()

    def on_ready(number: int) -> None:
        _log.info("%d of %d engines up after %.0f s", number, job.cluster.replicas, time.monotonic() - began)

    with _lasting_cluster(job.cluster.address):
        warm_pool.start_pool(name or job.name, job.model, job.engine, job.cluster, idle_minutes * 60, on_ready)


def list_pools(address: str | None = None) -> list[PoolState]:
    """The pools of a cluster, by name.

    Args:
        address: of the cluster; by default RAY_ADDRESS.
    """
    with _lasting_cluster(address):
        return warm_pool.list_pools()


def stop_pool(name: str, address: str | None = None) -> int:
    """Ends a pool; jobs that use it go on with engines of their own. Returns how many engines it had.

    Raises:
        EngineError: there is no pool of that name.
    """
    with _lasting_cluster(address):
        return warm_pool.stop_pool(name)


@contextmanager
def _lasting_cluster(address: str | None) -> Iterator[None]:
    import ray

    if not (address or os.environ.get("RAY_ADDRESS") or ray.is_initialized()):
        raise EngineError(
            "cluster.address", None, "a pool lives in a Ray cluster, and none is named",
            "run `ray start --head` once, then `export RAY_ADDRESS=auto` (README.md); jobs find the pool there",
        )  # fmt: skip
    with connect_to_ray(address):
        yield

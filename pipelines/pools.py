"""`kindling pool start|list|stop`: warm pools, whose engines stay up between jobs."""

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
from services.observability.terminal import Bar
from services.replicas import warm_pool
from services.replicas.warm_pool import PoolState

_log = logging.getLogger("kindling")


def start_pool(
    job: AugmentJob | Mapping[str, Any] | str | Path, name: str | None = None, idle_minutes: float = 60.0
) -> None:
    """Starts the engines that a job asks for, and leaves them running for jobs with the same `model` and `engine`.

    Args:
        job: a job, of which only `model`, `engine`, `cluster` and `seeds` are used.
        name: name of the pool; by default the name of the job.
        idle_minutes: minutes without a job after which the pool ends itself.

    Raises:
        EngineError: the job's engines have its seed, no running cluster is named, a pool of that name runs already, or
            an engine fails.
    """
    job = as_job(job)
    if idle_minutes <= 0:
        cause = "it must be more than 0, or the pool ends at once"
        raise EngineError("--idle-minutes", idle_minutes, cause, "give a number of minutes")
    if job.seeds == "run":
        cause = "engines that serve several jobs cannot have the seed of one"
        raise EngineError("seeds", job.seeds, cause, "run the job without a pool, or set `seeds` to row or none")
    began = time.monotonic()

    def on_ready(number: int) -> None:
        bar.update(completed=number)
        _log.info("%d of %d engines up after %.0f s", number, job.cluster.replicas, time.monotonic() - began)

    with _running_cluster(job.cluster.address), Bar("starting engines", job.cluster.replicas) as bar:
        warm_pool.start_pool(
            name or job.name, job.model, job.engine, job.cluster, idle_minutes * 60, on_ready, bar.show_phase, job.seeds
        )


def list_pools(address: str | None = None) -> list[PoolState]:
    """Lists the pools of a cluster, in the order of their names.

    Args:
        address: address of the cluster; by default RAY_ADDRESS.
    """
    with _running_cluster(address):
        return warm_pool.list_pools()


def stop_pool(name: str, address: str | None = None) -> int:
    """Stops a pool; jobs that use it continue with their own engines. Returns how many engines the pool had.

    Raises:
        EngineError: there is no pool of that name.
    """
    with _running_cluster(address):
        return warm_pool.stop_pool(name)


@contextmanager
def _running_cluster(address: str | None) -> Iterator[None]:
    """Connects to a cluster that runs already: one that this process started would end with it, and the pool too."""
    import ray

    if not (address or os.environ.get("RAY_ADDRESS") or ray.is_initialized()):
        raise EngineError(
            "cluster.address", None, "a pool needs a running Ray cluster, and none is named",
            "run `ray start --head --disable-usage-stats` once, then `export RAY_ADDRESS=auto` (docs/cluster.md); jobs "
            "find the pool there",
        )  # fmt: skip
    with connect_to_ray(address):
        yield

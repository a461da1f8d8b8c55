"""GPUs and CPU cores that the jobs of a study want, and those that are there."""

import math
import os
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.checking.findings import list_gpus
from pipelines.study.plan import PlannedJob
from schemas.train import ClassifierStage
from services.cluster import connect_to_ray


@dataclass(frozen=True)
class Resources:
    """GPUs and CPU cores."""

    gpus: float
    cpus: float

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.gpus + other.gpus, self.cpus + other.cpus)

    def fit(self, total: "Resources") -> bool:
        """Returns whether they are not more than there are."""
        return self.gpus <= total.gpus and self.cpus <= total.cpus


def total_resources(address: str | None) -> Resources:
    """Returns what the Ray cluster at `address` has; without an address, what this machine has.

    Raises:
        EngineError: no cluster answers there, or it wants a token.
    """
    if address:
        with connect_to_ray(address):
            has = ray.cluster_resources()
        return Resources(has.get("GPU", 0), has.get("CPU", 0))
    return Resources(len(local_devices()), len(os.sched_getaffinity(0)))


def local_devices() -> list[str]:
    """Returns the GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(len(list_gpus()))]
    return [device.strip() for device in visible.split(",") if device.strip()]


def wanted_resources(planned: PlannedJob, total: Resources) -> Resources:
    """Returns what a job wants while it runs: by its keys, else a GPU where there is one, else all cores."""
    job: Any = planned.job
    if planned.verb == "compose":
        return Resources(0, 1)
    if planned.verb == "train":
        is_classifier = isinstance(job.stages[0], ClassifierStage)
        return _wanted(job.resources.gpus, job.resources.cpus, 1, 0 if is_classifier else 1, total)
    if planned.verb == "label":
        return _wanted(job.cluster.gpus_per_actor, job.cluster.cpus_per_actor, job.cluster.actors, 0, total)
    gpus = job.engine.get("tensor_parallel_size", 1)
    return _wanted(job.cluster.gpus_per_replica, job.cluster.cpus_per_replica, job.cluster.replicas, gpus, total)


def _wanted(gpus: float | None, cpus: int | None, actors: int, usual_gpus: float, total: Resources) -> Resources:
    gpus = (usual_gpus if total.gpus else 0) if gpus is None else gpus
    if gpus:
        return Resources(math.ceil(gpus * actors), 0)
    # Without a number of cores each verb uses all of its machine.
    return Resources(0, total.cpus if cpus is None else cpus * actors)

"""What a replica or a training gets of a Ray cluster: GPUs, CPU cores, and where its actor goes."""

import logging
from typing import Any

import ray

from schemas.errors import EngineError
from schemas.job import Cluster, Model
from services.engines.engine import EngineSpec
from services.replicas.replica import Replica

_log = logging.getLogger("kindling")


def replica_actor(spec: EngineSpec, **options: Any) -> Any:
    """The actor class of replicas with this spec, as Ray is to place it."""
    resources = {"num_gpus": spec.gpus} if spec.gpus else {"num_cpus": spec.cpus}
    # A stuck engine must not keep the driver from hearing of it, so calls run side by side; 1000 is Ray's default.
    return ray.remote(Replica).options(scheduling_strategy="SPREAD", max_concurrency=1000, **resources, **options)


def replica_spec(model: Model, engine: dict[str, Any], cluster: Cluster, warn: bool = True) -> EngineSpec:
    """What each replica of a job gets on this cluster.

    Args:
        warn: say where the cluster has too little for all of them.

    Raises:
        EngineError: a replica is to have a part of a GPU and more than one.
    """
    gpus = cluster.gpus_per_replica
    if gpus is None:
        ranks = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))
        gpus = float(ranks) if ray.cluster_resources().get("GPU") and model.id != "fake" else 0.0
    if gpus > 1 and gpus != int(gpus):
        raise EngineError("cluster.gpus_per_replica", gpus, "above one GPU only whole ones can be given", "round it")
    cpus = cluster.cpus_per_replica or cpus_per_actor(cluster.replicas)
    if warn:
        _warn_of_too_little(cluster.replicas, "GPU" if gpus else "CPU", gpus or cpus)
    return EngineSpec(model, engine, gpus, cpus)


def cpus_per_actor(number: int) -> int:
    """Cores of each, where so many share the cluster's nodes evenly."""
    # A head that runs no work has no CPU to give.
    nodes = [cpu for resources in _nodes() if (cpu := resources.get("CPU"))] or [1]
    return max(int(min(nodes) // -(-number // len(nodes))), 1)


def fits_on_a_node(gpus: float, cpus: int) -> bool:
    """Whether any node, were it idle, has so much."""
    return any(there.get("GPU", 0) >= gpus and there.get("CPU", 0) >= cpus for there in _nodes())


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _warn_of_too_little(replicas: int, what: str, wanted: float) -> None:
    there, free = (resources().get(what, 0) for resources in (ray.cluster_resources, ray.available_resources))
    if wanted * replicas > there:
        _log.warning(
            "the job wants %g x %g %ss and the cluster has %g: the rest of the replicas waits for nodes. Add some, "
            "or lower cluster.replicas",
            replicas, wanted, what, there,
        )  # fmt: skip
    elif wanted * replicas > free:
        _log.warning(
            "the job wants %g x %g %ss and %g of the cluster's %g are free: the rest of the replicas waits for other "
            "jobs, or for warm pools with other settings, to end. End them (`kindling pool list`), or lower "
            "cluster.replicas",
            replicas, wanted, what, free, there,
        )  # fmt: skip

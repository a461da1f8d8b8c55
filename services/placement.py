"""What a replica gets of a Ray cluster: GPUs, or CPU cores, and where its actor goes."""

import logging
from typing import Any

import ray

from schemas.errors import EngineError
from schemas.job import Cluster, Model
from services.engine import EngineSpec
from services.replica import Replica

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
    resources = ray.cluster_resources()
    gpus = cluster.gpus_per_replica
    if gpus is None:
        ranks = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))
        gpus = float(ranks) if resources.get("GPU") and model.id != "fake" else 0.0
    if gpus > 1 and gpus != int(gpus):
        raise EngineError("cluster.gpus_per_replica", gpus, "above one GPU only whole ones can be given", "round it")
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    replicas_per_node = -(-cluster.replicas // len(nodes))
    cpus = cluster.cpus_per_replica or max(int(min(nodes) // replicas_per_node), 1)
    for what, wanted, there in (("GPU", gpus, resources.get("GPU", 0)), ("CPU", 0 if gpus else cpus, resources["CPU"])):
        if warn and wanted * cluster.replicas > there:
            _log.warning(
                "the job wants %g x %g %ss and the cluster has %g: the rest of the replicas waits for nodes",
                cluster.replicas, wanted, what, there,
            )  # fmt: skip
    return EngineSpec(model, engine, gpus, cpus)

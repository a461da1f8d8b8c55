"""Resources of a Ray cluster that a replica, an actor or a training requests: GPUs, CPU cores, and a place."""

import logging
from typing import Any

import ray

from schemas.errors import EngineError
from schemas.job import Cluster, Model, Seeds
from services.cluster import starts_cluster
from services.engines.engine import EngineSpec
from services.models.checkpoints import require_model
from services.replicas.replica import STATUS_GROUP, Replica
from services.replicas.resource_wait import ResourceWait, node_resources

_log = logging.getLogger("kindling")

_STOP_SECONDS = 15.0


def replica_actor(spec: EngineSpec, **options: Any) -> Any:
    """Returns the Ray actor class of replicas with this spec.

    Args:
        spec: the engine, with its GPUs or cores.
        options: further options of the actor, as in `ActorClass.options`.
    """
    resources = {"num_gpus": spec.gpus} if spec.gpus else {"num_cpus": spec.cpus}
    # Calls run concurrently, so that the driver can ask a replica whose engine is stuck. Ray's own default is 1000.
    replica_class = ray.remote(concurrency_groups={STATUS_GROUP: 1})(Replica)
    return replica_class.options(scheduling_strategy="SPREAD", max_concurrency=1000, **resources, **options)


def end_replicas(actors: list[Any]) -> None:
    """Ends replicas: first their engines, and then the actors."""
    stopping = [actor.stop.remote() for actor in actors]
    ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
    for actor in actors:
        ray.kill(actor)


def check_model(model: Model, cluster: Cluster) -> None:
    """Checks that the model can be found, before Ray is started on this machine. Another cluster has it elsewhere.

    Raises:
        EngineError: the model is missing, or loading it is not safe.
    """
    if starts_cluster(cluster.address):
        require_model(model)


def replica_wait(spec: EngineSpec, cluster: Cluster) -> ResourceWait:
    """Returns the wait for the resources of a job's replicas."""
    kind = "gpus" if spec.gpus else "cpus"
    derived = spec.gpus > 1 and cluster.gpus_per_replica is None
    key = "engine.tensor_parallel_size" if derived else f"cluster.{kind}_per_replica"
    return ResourceWait(key, spec.gpus, 0 if spec.gpus else spec.cpus, cluster.wait_minutes, spec.model)


def replica_spec(
    model: Model, engine: dict[str, Any], cluster: Cluster, warn: bool = True, seeds: Seeds = "row"
) -> EngineSpec:
    """Returns the spec of each replica of a job, with the GPUs or cores that it gets on this cluster.

    Args:
        model: model section of the job.
        engine: vLLM engine arguments, as in the job file.
        cluster: number of replicas, and their GPUs and cores; keys that are not set are derived.
        warn: log a warning where the cluster has too little for all replicas, and refuse a job that has no place.
        seeds: random numbers that its requests use.

    Raises:
        EngineError: `cluster.gpus_per_replica` is above 1 and not a whole number.
        JobError: this machine has too little for one replica, and Ray was started here for this job alone.
    """
    gpus = cluster.gpus_per_replica
    if gpus is None:
        ranks = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))
        gpus = float(ranks) if ray.cluster_resources().get("GPU") and model.id != "fake" else 0.0
    if gpus > 1 and gpus != int(gpus):
        cause = "above one GPU, a replica can have only whole GPUs"
        raise EngineError("cluster.gpus_per_replica", gpus, cause, "round it")
    cpus = cluster.cpus_per_replica or cpus_per_actor(cluster.replicas)
    spec = EngineSpec(model, engine, gpus, cpus, seeds=seeds)
    if warn and replica_wait(spec, cluster).begin("the job"):
        _warn_if_too_little(cluster.replicas, "GPU" if gpus else "CPU", gpus or cpus)
    return spec


def cpus_per_actor(number: int) -> int:
    """Returns the number of CPU cores for each actor, where so many actors share the cluster's nodes evenly."""
    # A head node that runs no work offers no CPU.
    nodes = [cpus for resources in node_resources() if (cpus := resources.get("CPU"))] or [1]
    return max(int(min(nodes) // -(-number // len(nodes))), 1)


def _warn_if_too_little(replicas: int, resource: str, per_replica: float) -> None:
    total, free = (resources().get(resource, 0) for resources in (ray.cluster_resources, ray.available_resources))
    if per_replica * replicas > total:
        _log.warning(
            "the job requests %g x %g %ss, but the cluster has %g: the other replicas wait for nodes. Add nodes, or "
            "lower cluster.replicas",
            replicas, per_replica, resource, total,
        )  # fmt: skip
    elif per_replica * replicas > free:
        _log.warning(
            "the job requests %g x %g %ss, but only %g of the cluster's %g are free: the other replicas wait until "
            "other jobs, or warm pools with other settings, end. End them (`kindling pool list`), or lower "
            "cluster.replicas",
            replicas, per_replica, resource, free, total,
        )  # fmt: skip

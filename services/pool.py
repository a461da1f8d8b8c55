"""The replicas of a job: where they are placed, which cores they get, and their replacement when one dies."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from schemas.errors import EngineError
from schemas.job import Cluster, Model
from schemas.rows import WorkRow
from services.engine import EngineInfo, EngineSpec
from services.replica import Replica, RowContext

_log = logging.getLogger("kindling")

# A replica that dies this often in a row before it serves a row is not going to live.
_MOST_DEATHS = 3
_STOP_SECONDS = 15.0


@dataclass(eq=False)
class Member:
    """One replica as the driver sees it.

    Attributes:
        number: from 0; stays with its successor.
        waits_for: what the actor was last asked: its cores, its start, or finished rows.
        rows: the rows it was given and has not returned, by unit.
    """

    number: int
    actor: Any
    phase: Literal["placing", "starting", "serving"]
    waits_for: ray.ObjectRef
    node: str = ""
    cores: tuple[int, ...] = ()
    info: EngineInfo | None = None
    rows: dict[int, WorkRow] = field(default_factory=dict)


class ReplicaPool:
    """Starts replicas side by side; each one serves as soon as it is up.

    Must be used inside `services.cluster.connected`.
    """

    def __init__(self, model: Model, engine: dict[str, Any], cluster: Cluster, context: RowContext) -> None:
        self._model, self._engine, self._context = model, engine, context
        self._gpus, self._cpus = _share(model, engine, cluster)
        self._deaths: Counter[int] = Counter()
        self.members = [self._create(number) for number in range(cluster.replicas)]

    def advance(self, member: Member, answer: Any) -> None:
        """Takes a member that is not serving yet one step on, with what it answered."""
        if member.phase == "placing":
            member.node, cores = answer
            member.cores = self._assign(member.node, cores)
            spec = EngineSpec(self._model, self._engine, self._gpus, member.cores)
            member.phase = "starting"
            member.waits_for = member.actor.start.remote(spec, self._context)
        else:
            member.info = answer
            member.phase = "serving"
            member.waits_for = member.actor.take.remote()

    def replace(self, member: Member, cause: str) -> None:
        """Puts a new replica in the place of a dead one.

        Raises:
            EngineError: the replicas in this place keep dying before they serve a row.
        """
        self._deaths[member.number] += 1
        if self._deaths[member.number] >= _MOST_DEATHS:
            raise EngineError(
                "cluster", None, f"replica {member.number} died {_MOST_DEATHS} times before it served a row: {cause}",
                "see the replica's log in Ray's session folder; memory is the commonest reason",
            )  # fmt: skip
        _log.warning("replica %d died (%s); starting another", member.number, cause)
        ray.kill(member.actor)
        self.members[self.members.index(member)] = self._create(member.number)

    def served(self, member: Member) -> None:
        """Tells that a replica returned rows: what died in its place before is forgiven."""
        self._deaths[member.number] = 0

    def stop(self) -> None:
        """Ends all replicas and their engines."""
        stopping = [m.actor.stop.remote() for m in self.members if m.phase == "serving"]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
        for member in self.members:
            ray.kill(member.actor)
        self.members = []

    def _create(self, number: int) -> Member:
        options = {"num_gpus": self._gpus} if self._gpus else {"num_cpus": self._cpus}
        # A stuck engine must not keep the driver from hearing of it, so calls run side by side; 1000 is Ray's default.
        actor = ray.remote(Replica).options(scheduling_strategy="SPREAD", max_concurrency=1000, **options).remote()
        return Member(number, actor, "placing", actor.cores.remote())

    def _assign(self, node: str, cores: list[int]) -> tuple[int, ...]:
        """Cores of a node that no other replica there has; all engines of a machine would else start from core 0."""
        if self._gpus:
            return ()
        taken = {core for m in self.members if m.node == node for core in m.cores}
        free = [core for core in cores if core not in taken]
        return tuple((free or cores)[: self._cpus])


def _share(model: Model, engine: dict[str, Any], cluster: Cluster) -> tuple[float, int]:
    """(GPUs, CPU cores) of one replica."""
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
        if wanted * cluster.replicas > there:
            _log.warning(
                "the job wants %g x %g %ss and the cluster has %g: the rest of the replicas waits for nodes",
                cluster.replicas, wanted, what, there,
            )  # fmt: skip
    return gpus, cpus

"""The replicas of a job: those of a matching warm pool, or its own; and the replacement of dead ones.

Invariant: each place in `ReplicaPool.members` always has exactly one replica with one call to its actor outstanding (or
about to be made), so that the death of any replica becomes exactly one `Lost` event, which names the rows it had.
"""

import itertools
import logging
import pickle
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import ObjectRef

from schemas.errors import EngineError, KindlingError, StoppedError
from schemas.job import Cluster, Model, Seeds
from schemas.rows import FinishedRows, WorkRow, engine_seed
from schemas.text import plural
from services.cluster import HeadWatch, cause_line, head_lost, is_head_reachable
from services.engines.engine import EngineDeadError
from services.observability.start_phases import Phase, waiting_phase
from services.replicas.kept_replicas import KeptReplicas
from services.replicas.members import Lost, Member, Ready, Returned
from services.replicas.placement import replica_actor, replica_spec, replica_wait
from services.replicas.row_records import VariantSettings
from services.replicas.sessions import OpenedSession, SessionLostError
from services.replicas.starts import ReplicaStarts
from services.replicas.warm_pool import find_pool

_log = logging.getLogger("kindling")

# Deaths in one place, with no row served between them, after which the job ends: another replica would die as well.
_MAX_DEATHS = 3
_STOP_SECONDS = 15.0
# Ray says so in the text of the error only (2.60).
_NODE_DIED = "its node has died"
# Pause before replicas are asked for results. It is short compared with the time for which the requests that wait
# inside an engine keep the engine busy.
_PAUSE_SECONDS_PER_REPLICA = 0.006
_MAX_PAUSE_SECONDS = 0.1


class ReplicaPool:
    """Starts replicas side by side, or adopts those of a warm pool; each serves as soon as it is up.

    Must be used inside `services.cluster.connect_to_ray`.

    Args:
        model: model section of the job.
        engine: vLLM engine arguments, as in the job file.
        cluster: number of replicas, and their GPUs and cores.
        variants: settings of each variant that rows have, by its name.
        max_adopted: number of replicas to adopt from a warm pool at most; None for all.
        kept: replicas that an earlier pool of this process left, and to which this one leaves its own.
        seeds: random numbers that requests use.
        seed: number that the seeds of its engines follow from, where `seeds` is "run".

    Attributes:
        members: the replicas; each one's place is its number.
        restarts: number of replicas that were started in the place of dead ones.
    """

    def __init__(
        self,
        model: Model,
        engine: dict[str, Any],
        cluster: Cluster,
        variants: Mapping[str, VariantSettings],
        max_adopted: int | None = None,
        kept: KeptReplicas | None = None,
        seeds: Seeds = "row",
        seed: int = 0,
    ) -> None:
        self._variants, self._job_id = variants, uuid.uuid4().hex
        self._seed, self._created = seed, itertools.count()
        self._head_watch = HeadWatch()
        self._deaths: Counter[int] = Counter()
        self.restarts = 0
        self._kept = kept
        left = kept.take() if kept is not None else []
        name, actors = ("", []) if left else find_pool(model, engine, seeds)
        actors = actors[:max_adopted]
        if actors:
            _log.info("using the warm pool %s: %s", name, plural(len(actors), "replica"))
            if len(actors) < cluster.replicas:
                _log.warning(
                    "the job asks for %d replicas, but the warm pool has %d, and the job uses those. For more, stop "
                    "the pool (`kindling pool stop %s`) and start it with more replicas",
                    cluster.replicas, len(actors), name,
                )  # fmt: skip
        # Needed with a warm pool too: if it is stopped during the job, replicas of the job's own take over.
        self._spec = replica_spec(model, engine, cluster, warn=not actors and not left, seeds=seeds)
        self._resource_wait = replica_wait(self._spec, cluster)
        are_up = Phase(f"opening the warm pool {name}" if actors else "opening the engines that are up")
        first = are_up if actors or left else waiting_phase(self._resource_wait.request)
        self._starts = ReplicaStarts(first, bool(self._spec.gpus))
        self.members = [self._open_session(Member(number, actor, is_warm=True)) for number, actor in enumerate(actors)]
        self.members += [self._open_session(Member(number, actor)) for number, actor in enumerate(left)]
        self.members += [self._create(number) for number in range(len(left), 0 if actors else cluster.replicas)]

    def start_phase(self) -> Phase:
        """Returns the phase of the replica whose start is most advanced."""
        return self._starts.latest()

    def send(self, member: Member, rows: list[WorkRow]) -> None:
        """Sends a batch of rows to a serving replica."""
        member.rows.update((row.output_id, row) for row in rows)
        if member.pending_call is None:
            self._exchange(member, rows)
        else:
            # Its `exchange` is waiting for finished rows already; `submit` returns at once.
            member.actor.submit.remote(pickle.dumps((self._job_id, rows)))

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """Returns the events since the last call, or the first within `timeout` seconds.

        Raises:
            EngineError: the model or engine cannot be started.
            JobError: the engine refuses the job's sampling for every row.
            StoppedError: the cluster is gone, or has had no place for any replica for `cluster.wait_minutes`.
        """
        self._check_placement()
        for member in self.members:
            if member.pending_call is None and member.phase != "lost":
                self._exchange(member, [])
        calls = {
            member.pending_call: member
            for member in self.members
            if member.phase != "lost" and member.pending_call is not None
        }
        if not calls:
            time.sleep(timeout)
            return []
        refs = list(calls)
        answered: list[ObjectRef[Any]] = []
        if len(refs) > 1:
            # Of many replicas some have always answered. After a pause one call of Ray returns several answers, which
            # costs the driver less than one call for each.
            time.sleep(min(_PAUSE_SECONDS_PER_REPLICA * len(refs), _MAX_PAUSE_SECONDS))
            answered, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not answered:
            answered, _ = ray.wait(refs, timeout=timeout)
        try:
            self._head_watch.check(bool(answered))
        except StoppedError:
            self._forget_members()
            raise
        return [self._event(calls[ref], ref) for ref in answered]

    def replace(self, member: Member, cause: str, count_death: bool = True) -> None:
        """Puts a new replica in the place of a dead one.

        Ray itself restarts a replica of a warm pool; it is only asked for a session again.

        Args:
            member: the dead replica.
            cause: message of its death.
            count_death: count it among the deaths that end the job; False where a row or a node was the reason.

        Raises:
            EngineError: engines in this place keep dying before they serve a row.
            StoppedError: processes in this place keep vanishing before they serve a row, or the cluster is gone.
        """
        self._require_head()
        self._deaths[member.number] += count_death
        if self._deaths[member.number] >= _MAX_DEATHS:
            cause = f"replica {member.number} died {_MAX_DEATHS} times before it served a row: {cause}"
            remedy = "see the replica's log in Ray's session folder; memory is the commonest reason"
            if member.engine_died:
                raise EngineError("cluster", None, cause, remedy)
            raise StoppedError("cluster", None, cause, f"{remedy}; the same command resumes")
        _log.warning(
            "replica %d died (%s); another one is starting, and its rows are generated again. If replicas keep dying, "
            "memory is the commonest reason: see the replica's log in Ray's session folder", member.number, cause,
        )  # fmt: skip
        self.restarts += 1
        if member.is_warm and member.phase == "serving":
            self.members[member.number] = self._open_session(Member(member.number, member.actor, is_warm=True))
            return
        if not member.is_warm:
            ray.kill(member.actor)
        # A warm replica that did not even open a session may never come back (its pool was stopped, say), so the job
        # goes on with a replica of its own.
        self.members[member.number] = self._create(member.number)

    def reopen_session(self, member: Member) -> None:
        """Opens a new session with a live replica that closed this job's session."""
        _log.warning(
            "replica %d had no call from this job for a while, and dropped its rows; they are sent again. If this "
            "happens often, the driver's machine is overloaded: give the driver a core of its own", member.number,
        )  # fmt: skip
        self.members[member.number] = self._open_session(Member(member.number, member.actor, member.is_warm))

    def clear_deaths(self, member: Member) -> None:
        """Forgets the deaths in a replica's place, because the replica returned rows."""
        self._deaths[member.number] = 0

    def stop(self) -> None:
        """Ends the job's own replicas and their engines; closes the session with those that outlive the job."""
        serving = [member for member in self.members if member.phase == "serving"]
        stopping = [
            member.actor.close.remote(self._job_id) if self._outlives_job(member) else member.actor.stop.remote()
            for member in serving
        ]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
        for member in self.members:
            if not self._outlives_job(member):
                ray.kill(member.actor)
        if self._kept is not None:
            self._kept.leave([member.actor for member in serving if not member.is_warm])
        self.members = []

    @property
    def has_engines_to_stop(self) -> bool:
        """Returns whether `stop` ends engines, and not only sessions with those that outlive the job."""
        return not all(map(self._outlives_job, self.members))

    def _outlives_job(self, member: Member) -> bool:
        return member.is_warm or (self._kept is not None and member.phase == "serving")

    def _require_head(self) -> None:
        if not is_head_reachable():
            self._forget_members()
            raise head_lost()

    def _forget_members(self) -> None:
        """Leaves `stop` nothing to call: a call to a cluster that is gone waits for a minute and aborts the process."""
        self.members = []

    def _create(self, number: int) -> Member:
        spec = replace(self._spec, seed=engine_seed(self._seed, next(self._created)))
        actor = replica_actor(spec).remote(spec)
        self._starts.add(actor)
        return self._open_session(Member(number, actor, placement=actor.__ray_ready__.remote()))

    def _check_placement(self) -> None:
        """Notes which replicas have got a node; ends the job where none has for too long."""
        waiting = {member.placement: member for member in self.members if member.placement is not None}
        if waiting:
            placed, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
            for ref in placed:
                waiting[ref].placement = None
        self._resource_wait.check(bool(waiting) and all(member.placement is not None for member in self.members))

    def _open_session(self, member: Member) -> Member:
        member.pending_call = member.actor.open.remote(self._job_id, self._variants)
        return member

    def _exchange(self, member: Member, rows: list[WorkRow]) -> None:
        member.pending_call = member.actor.exchange.remote(pickle.dumps((self._job_id, rows)))

    def _event(self, member: Member, ref: ObjectRef[Any]) -> Ready | Returned | Lost:
        """Turns the answer to a call, or its failure, into an event."""
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EngineDeadError):
                member.engine_died = True
                return Lost(member, str(error.cause), "engine")
            if isinstance(error.cause, SessionLostError):
                return Lost(member, "it closed this job's session", "session")
            if isinstance(error.cause, KindlingError):
                raise error.cause from None
            raise EngineError(
                "replica", member.number, f"{type(error.cause).__name__}: {error.cause}",
                "this is a fault of Kindling's own; please report it with the log in Ray's session folder",
            ) from error  # fmt: skip
        except ray.exceptions.RayError as error:
            self._require_head()  # a lost head takes its node's replicas along, and the next question would wait for it
            return Lost(member, cause_line(error), "node" if _is_node_lost(error, member) else "process")
        member.pending_call = None
        return self._returned(member, answer) if isinstance(answer, bytes) else self._ready(member, answer)

    def _returned(self, member: Member, answer: bytes) -> Returned:
        finished: FinishedRows = pickle.loads(answer)
        member.share, member.kv_cache_usage = finished.share, finished.kv_cache_usage
        return Returned(member, finished)

    def _ready(self, member: Member, session: OpenedSession) -> Ready:
        member.share = session.share
        member.info, member.node, member.cores = session.info, session.node, session.cores
        member.phase = "serving"
        if session.cores_missing:
            _log.warning(
                "replica %d is slower: %d of the CPU cores that it should have belong to other engines of its machine. "
                "End those (`kindling pool list`), or lower cluster.replicas", member.number, session.cores_missing,
            )  # fmt: skip
        return Ready(member)


def _is_node_lost(error: ray.exceptions.RayError, member: Member) -> bool:
    if getattr(error, "preempted", False) or _NODE_DIED in str(error):
        return True
    if not isinstance(error, ray.exceptions.ActorUnavailableError):
        return False
    # Ray restarts the actors of a warm pool. It then raises this error also where only the process died, so the node
    # itself is looked up.
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return not member.is_warm or member.node not in alive

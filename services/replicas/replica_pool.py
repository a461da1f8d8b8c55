"""The replicas of a job: a warm pool's where one fits, or its own; and their replacement when one dies."""

import logging
import math
import pickle
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from schemas.errors import EngineError, KindlingError, StoppedError
from schemas.job import Cluster, Model
from schemas.rows import FinishedRows, WorkRow
from services.cluster import cause_line, is_head_reachable
from services.engines.engine import EngineDeadError, EngineInfo
from services.replicas.placement import replica_actor, replica_spec
from services.replicas.replica import OpenedSession, SessionLostError
from services.replicas.row_records import VariantSettings
from services.replicas.warm_pool import find_pool

_log = logging.getLogger("kindling")

# A replica that dies this often in a row before it serves a row is not going to live.
_MOST_DEATHS = 3
_STOP_SECONDS = 15.0
# Ray tells it in words alone (2.60).
_NODE_DIED = "its node has died"
# A replica that serves is heard of every two seconds; while none is, the cluster may be gone.
_SILENCE_SECONDS = 10.0
# Short beside the time for which the requests that wait inside an engine keep it full.
_PAUSE_SECONDS_PER_REPLICA = 0.006
_LONGEST_PAUSE_SECONDS = 0.1


@dataclass(eq=False)
class Member:
    """One replica as the driver sees it.

    Attributes:
        number: from 0; stays with its successor.
        is_warm: it belongs to a warm pool, and outlives this job.
        phase: lost where it died and none takes its place, since the job is ending.
        pending_call: answer that is still to come from the actor: to `open` or `exchange`; None between two calls.
        rows: the rows it was given and has not returned, by their `output_id`.
        share: requests that it may have in flight for this job.
        kv_cache_usage: of its engine, when it last answered; see `Engine.kv_cache_usage`.
        start_seconds: time from its creation until it served this job; 0 for a replica of a warm pool.
        engine_died: it is lost, and its engine said why.
    """

    number: int
    actor: Any
    is_warm: bool = False
    phase: Literal["starting", "serving", "lost"] = "starting"
    pending_call: ray.ObjectRef | None = None
    rows: dict[int, WorkRow] = field(default_factory=dict)
    share: int = 0
    kv_cache_usage: float = math.nan
    start_seconds: float = 0.0
    node: str = ""
    cores: tuple[int, ...] = ()
    info: EngineInfo = field(init=False, repr=False)
    engine_died: bool = False


@dataclass(frozen=True)
class Ready:
    """A replica is up and serves."""

    member: Member


@dataclass(frozen=True)
class Returned:
    """A replica returned rows; maybe none."""

    member: Member
    finished: FinishedRows


@dataclass(frozen=True)
class Lost:
    """A replica's rows are lost.

    Attributes:
        what_ended: `engine`: its engine died under it and said why. `process`: the actor's process is gone; the
            machine may have run out of memory, or somebody killed it. `node`: its machine is gone, or cannot be
            reached. `session`: it lives, and took this job for dead.
    """

    member: Member
    cause: str
    what_ended: Literal["engine", "process", "node", "session"]


class ReplicaPool:
    """Starts replicas side by side, or adopts a warm pool's; each one serves as soon as it is up.

    Must be used inside `services.cluster.connect_to_ray`.

    Args:
        variants: settings of each variant that rows have, by its name.
        max_adopted: so many of a warm pool's replicas; all by default.

    Attributes:
        restarts: replicas that were put in the place of dead ones.
    """

    def __init__(
        self,
        model: Model,
        engine: dict[str, Any],
        cluster: Cluster,
        variants: Mapping[str, VariantSettings],
        max_adopted: int | None = None,
    ) -> None:
        self._variants, self._job = variants, uuid.uuid4().hex
        self._heard_at = time.monotonic()
        self._deaths: Counter[int] = Counter()
        self.restarts = 0
        name, actors = find_pool(model, engine)
        actors = actors[:max_adopted]
        if actors:
            _log.info("using the warm pool %s: %d replicas", name, len(actors))
            if len(actors) < cluster.replicas:
                _log.warning(
                    "the job asks for %d replicas, and the pool has %d, which it goes on with; for more, "
                    "`kindling pool stop %s` and start it again with so many", cluster.replicas, len(actors), name,
                )  # fmt: skip
        # Also for a warm pool: where it is stopped under the job, replicas of the job's own take over.
        self._spec = replica_spec(model, engine, cluster, warn=not actors)
        self.members = [self._opened(Member(number, actor, is_warm=True)) for number, actor in enumerate(actors)]
        self.members += [self._created(number) for number in range(0 if actors else cluster.replicas)]

    def send(self, member: Member, rows: list[WorkRow]) -> None:
        """Gives rows to a serving replica."""
        member.rows.update((row.output_id, row) for row in rows)
        if member.pending_call is None:
            self._exchange(member, rows)
        else:
            member.actor.submit.remote(pickle.dumps((self._job, rows)))

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """What happened, at once or within `timeout` seconds.

        Raises:
            EngineError: the model or engine cannot be started.
            StoppedError: the cluster is gone.
        """
        for member in self.members:
            if member.pending_call is None and member.phase != "lost":
                self._exchange(member, [])
        waiting = {member.pending_call: member for member in self.members if member.phase != "lost"}
        refs, ready = list(waiting), []
        if not refs:
            time.sleep(timeout)
            return []
        if len(refs) > 1:
            # With many replicas there is always news of some; one look at all of them costs the driver less than many.
            time.sleep(min(_PAUSE_SECONDS_PER_REPLICA * len(refs), _LONGEST_PAUSE_SECONDS))
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait(refs, timeout=timeout)
        self._listen(bool(ready))
        return [self._news(waiting[ref], ref) for ref in ready]

    def replace(self, member: Member, cause: str, count_death: bool = True) -> None:
        """Puts a new replica in the place of a dead one; a warm pool's is started anew by Ray, and only asked again.

        Args:
            count_death: count this death among those that end the job; False where a row or a node was the reason.

        Raises:
            EngineError: the engines in this place keep dying before they serve a row.
            StoppedError: their processes do, for a reason that nobody told; or the cluster is gone.
        """
        self._require_head()
        self._deaths[member.number] += count_death
        if self._deaths[member.number] >= _MOST_DEATHS:
            cause = f"replica {member.number} died {_MOST_DEATHS} times before it served a row: {cause}"
            remedy = "see the replica's log in Ray's session folder; memory is the commonest reason"
            if member.engine_died:
                raise EngineError("cluster", None, cause, remedy)
            raise StoppedError("cluster", None, cause, f"{remedy}; the same command resumes")
        _log.warning(
            "replica %d died (%s); another one is starting, and its rows are generated again. If it goes on dying, "
            "memory is the commonest reason: see its log in Ray's session folder", member.number, cause,
        )  # fmt: skip
        self.restarts += 1
        if not member.is_warm:
            ray.kill(member.actor)
        elif member.phase == "serving":
            return self._put(self._opened(Member(member.number, member.actor, is_warm=True)))
        self._put(self._created(member.number))

    def reopen_session(self, member: Member) -> None:
        """Opens a new session with a replica that took this job for dead."""
        _log.warning(
            "replica %d had not heard of this job for a while, and dropped its rows; they are handed out again. If "
            "that comes again, the machine of this process is overloaded: give the driver a core", member.number,
        )  # fmt: skip
        self._put(self._opened(Member(member.number, member.actor, member.is_warm)))

    def clear_deaths(self, member: Member) -> None:
        """Tells that a replica returned rows: what died in its place before is forgiven."""
        self._deaths[member.number] = 0

    def stop(self) -> None:
        """Ends the job's own replicas and their engines, and leaves a warm pool's."""
        serving = [member for member in self.members if member.phase == "serving"]
        stopping = [m.actor.close.remote(self._job) if m.is_warm else m.actor.stop.remote() for m in serving]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
        for member in self.members:
            if not member.is_warm:
                ray.kill(member.actor)
        self.members = []

    def _listen(self, heard: bool) -> None:
        now = time.monotonic()
        if heard:
            self._heard_at = now
        elif now - self._heard_at > _SILENCE_SECONDS:
            self._heard_at = now
            self._require_head()

    def _require_head(self) -> None:
        if not is_head_reachable():
            self.members = []
            raise StoppedError(
                "cluster.address", None, "the head of the Ray cluster does not answer any more",
                "start a cluster, then the same command there: it resumes, and nothing finished is lost",
            )  # fmt: skip

    def _created(self, number: int) -> Member:
        return self._opened(Member(number, replica_actor(self._spec).remote(self._spec)))

    def _opened(self, member: Member) -> Member:
        member.pending_call = member.actor.open.remote(self._job, self._variants)
        return member

    def _put(self, member: Member) -> None:
        self.members[member.number] = member

    def _exchange(self, member: Member, rows: list[WorkRow]) -> None:
        message = pickle.dumps((self._job, rows))
        member.pending_call = member.actor.exchange.remote(message)

    def _news(self, member: Member, ref: ray.ObjectRef) -> Ready | Returned | Lost:
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EngineDeadError):
                member.engine_died = True
                return Lost(member, str(error.cause), "engine")
            if isinstance(error.cause, SessionLostError):
                return Lost(member, "it took this job for dead", "session")
            if isinstance(error.cause, KindlingError):
                raise error.cause from None
            raise EngineError(
                "replica", member.number, f"{type(error.cause).__name__}: {error.cause}",
                "this is a fault of Kindling's own; please report it with the log in Ray's session folder",
            ) from error  # fmt: skip
        except ray.exceptions.RayError as error:
            return Lost(member, cause_line(error), "node" if _is_of_node(error, member) else "process")
        member.pending_call = None
        return self._returned(member, answer) if isinstance(answer, bytes) else self._ready(member, answer)

    def _returned(self, member: Member, answer: bytes) -> Returned:
        finished: FinishedRows = pickle.loads(answer)
        member.share, member.kv_cache_usage = finished.share, finished.kv_cache_usage
        return Returned(member, finished)

    def _ready(self, member: Member, answer: OpenedSession) -> Ready:
        member.share = answer.share
        member.info, member.node, member.cores = answer.info, answer.node, answer.cores
        member.start_seconds = 0.0 if member.is_warm else answer.uptime_seconds
        member.phase = "serving"
        if answer.cores_missing:
            _log.warning(
                "replica %d is slower: of the cores that it was to have for itself other engines of its machine have "
                "%d. End those (`kindling pool list`), or lower cluster.replicas", member.number,
                answer.cores_missing,
            )  # fmt: skip
        return Ready(member)


def _is_of_node(error: ray.exceptions.RayError, member: Member) -> bool:
    if getattr(error, "preempted", False) or _NODE_DIED in str(error):
        return True
    if not isinstance(error, ray.exceptions.ActorUnavailableError):
        return False
    # Of a pool's actor, which Ray starts anew, it says the same where only the process died.
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return not member.is_warm or member.node not in alive

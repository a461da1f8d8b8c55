"""One replica as the driver sees it, and the events by which a pool reports on its replicas."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ray import ObjectRef

from schemas.rows import FinishedRows, WorkRow
from services.engines.engine import EngineInfo


@dataclass(eq=False)
class Member:
    """One replica of the job, as the driver sees it.

    Attributes:
        number: place in the pool, from 0; a replacement has the same number.
        actor: handle of the Ray actor.
        is_warm: it belongs to a warm pool, and outlives this job.
        phase: `lost` if it died while the job was ending, so that it was not replaced.
        placement: answer that is still to come until Ray has a node for the actor; None from then on.
        pending_call: answer that is still to come from the actor: to `open` or `exchange`; None between two calls.
        rows: rows that it has now, by their `output_id`.
        share: number of requests that it may have in flight for this job.
        kv_cache_usage: share of its engine's KV cache in use at its last answer; see `Engine.kv_cache_usage`.
        node: id of its Ray node.
        cores: numbers of the CPU cores that its engine computes on; empty on GPUs.
        info: facts of its engine; set when it begins to serve.
        engine_died: its engine reported its own death.
    """

    number: int
    actor: Any
    is_warm: bool = False
    phase: Literal["starting", "serving", "lost"] = "starting"
    placement: ObjectRef[Any] | None = None
    pending_call: ObjectRef[Any] | None = None
    rows: dict[int, WorkRow] = field(default_factory=dict)
    share: int = 0
    kv_cache_usage: float = math.nan
    node: str = ""
    cores: tuple[int, ...] = ()
    info: EngineInfo = field(init=False, repr=False)
    engine_died: bool = False

    @property
    def is_paid(self) -> bool:
        """True while it costs this job: it serves, or the job started it and it has a node."""
        return self.phase == "serving" or (self.phase == "starting" and self.placement is None and not self.is_warm)


@dataclass(frozen=True)
class Ready:
    """Event: a replica is up and serves."""

    member: Member


@dataclass(frozen=True)
class Returned:
    """Event: a replica returned finished rows; there may be none."""

    member: Member
    finished: FinishedRows


@dataclass(frozen=True)
class Lost:
    """Event: the rows of a replica are lost.

    Attributes:
        member: the replica, with its rows.
        cause: message of the engine or of Ray.
        what_ended: `engine`: the engine died and reported it. `process`: the actor's process vanished; the machine may
            have run out of memory, or somebody killed it. `node`: the machine is gone or cannot be reached. `session`:
            the replica lives, but closed this job's session because the job was silent.
    """

    member: Member
    cause: str
    what_ended: Literal["engine", "process", "node", "session"]

"""Hands rows to replicas one by one as room appears, and takes finished rows back. Lives in the driver.

There is no batch anywhere: each replica has about 1.1 x `max_num_seqs` requests in flight at all times, whatever lease
or shard they belong to, so that its engine never drains.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator

import ray

from schemas.errors import EngineError, KindlingError
from schemas.rows import WorkRow, row_seed, to_batch
from services.engine import EngineDeadError
from services.pool import Member, ReplicaPool
from services.replica import Finished, RowContext, failed_record

_log = logging.getLogger("kindling")

# Requests that wait inside the engine, so that a finished one is followed at once: prompts are tokenized ahead there.
_OVERSUBSCRIPTION = 1.1
# Rows in one message to a replica, at most.
_LEASE_ROWS = 64
# How long the loop sleeps when nothing happens; bounds how late a signal is seen.
_TICK_SECONDS = 0.2
# A row under which an engine died this often is taken for the reason.
_MOST_DEATHS = 2


class Coordinator:
    """Runs rows through a pool until none is left or it is told to stop.

    Args:
        pool: the replicas.
        rows: the rows to do, planned lazily.
        total: how many rows those are, at most; near the end they are shared out evenly.
        sink: takes finished rows; called from this thread.
        should_stop: polled several times a second.
        on_ready: called when a replica is up.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        context: RowContext,
        rows: Iterator[WorkRow],
        total: int,
        sink: Callable[[Finished], None],
        should_stop: Callable[[], bool],
        on_ready: Callable[[Member], None],
    ) -> None:
        self._pool, self._context, self._rows = pool, context, rows
        self._left = total
        self._sink, self._should_stop, self._on_ready = sink, should_stop, on_ready
        self._exhausted = False
        self._returned: list[WorkRow] = []

    @property
    def in_flight(self) -> int:
        """Rows that are with replicas now."""
        return sum(len(member.rows) for member in self._pool.members)

    def run(self) -> bool:
        """Returns True when every row was finished, False when it was told to stop.

        Raises:
            EngineError: the model or engine cannot be started, or keeps dying.
        """
        while not self._should_stop():
            self._dispatch()
            if self._exhausted and not self._returned and not self.in_flight:
                return True
            self._collect(_TICK_SECONDS)
        # What replicas had finished when the stop came is a message away.
        self._collect(_TICK_SECONDS)
        return False

    def _dispatch(self) -> None:
        for member in self._pool.members:
            if member.phase == "serving":
                while lease := self._lease(member):
                    member.rows.update((row.unit, row) for row in lease)
                    member.actor.submit.remote(lease)

    def _lease(self, member: Member) -> list[WorkRow]:
        capacity = math.ceil(member.info.max_num_seqs * _OVERSUBSCRIPTION)
        # At least one: the planner may have less left than was thought, and only asking it tells.
        fair = max(math.ceil(self._left / len(self._pool.members)), 1)
        room = min(capacity, fair) - len(member.rows)
        lease = self._returned[: max(min(room, _LEASE_ROWS), 0)]
        del self._returned[: len(lease)]
        if not self._exhausted and room > len(lease):
            wanted = min(room, _LEASE_ROWS) - len(lease)
            fresh = list(itertools.islice(self._rows, wanted))
            self._exhausted = len(fresh) < wanted
            lease += fresh
        return lease

    def _collect(self, timeout: float) -> None:
        waiting = {member.waits_for: member for member in self._pool.members}
        ready, _ = ray.wait(list(waiting), timeout=timeout)
        if ready:
            # Others may be ready too; one call finds them all.
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for ref in ready:
            self._answer(waiting[ref], ref)

    def _answer(self, member: Member, ref: ray.ObjectRef) -> None:
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EngineDeadError):
                self._lost(member, str(error.cause))
            elif isinstance(error.cause, KindlingError):
                raise error.cause from None
            else:
                raise EngineError(
                    "replica", member.number, f"{type(error.cause).__name__}: {error.cause}",
                    "this is a fault of Kindling's own; please report it with the log in Ray's session folder",
                ) from error  # fmt: skip
        except ray.exceptions.RayError as error:
            self._lost(member, str(error).splitlines()[0])
        else:
            if member.phase == "serving":
                self._take(member, answer)
            else:
                self._pool.advance(member, answer)
                if member.phase == "serving":
                    self._on_ready(member)

    def _take(self, member: Member, finished: Finished) -> None:
        member.waits_for = member.actor.take.remote()
        if not finished.units:
            return
        for unit in finished.units:
            del member.rows[unit]
        self._left -= len(finished.units)
        self._pool.served(member)
        self._sink(finished)

    def _lost(self, member: Member, cause: str) -> None:
        """Takes a dead replica's rows back, and those that saw too many engines die out of the job."""
        doomed = []
        for row in member.rows.values():
            row.attempt += 1
            (doomed if row.attempt >= _MOST_DEATHS else self._returned).append(row)
        self._pool.replace(member, cause)
        if doomed:
            self._left -= len(doomed)
            self._sink(self._failed(doomed, f"the engine died {_MOST_DEATHS} times under this row: {cause}"))

    def _failed(self, rows: list[WorkRow], reason: str) -> Finished:
        context = self._context
        records = []
        for row in rows:
            seed = row_seed(context.run_seed, row.source, row.row_index, row.sample, context.variant)
            records.append(failed_record(row, context, seed, reason))
        return Finished([row.unit for row in rows], [row.shard for row in rows], to_batch(records))

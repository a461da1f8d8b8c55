"""Hands rows to replicas one by one as room appears, and takes finished rows back. Lives in the driver.

There is no batch anywhere: each replica has about 1.1 x `max_num_seqs` requests in flight at all times, whatever lease
or shard they belong to, so that its engine never drains. What a pool is, Ray's actors or a simulation's events, is not
known here.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from schemas.rows import WorkRow, row_seed, to_batch
from services.pool import Lost, Member, Ready, Returned
from services.records import RowContext, failed_record
from services.replica import Finished
from services.window import DispatchWindow

# Rows in one message to a replica, at most.
_LEASE_ROWS = 64
# How long the loop sleeps when nothing happens; bounds how late a signal is seen.
_TICK_SECONDS = 0.2
# A row under which an engine died this often is taken for the reason.
_MOST_DEATHS = 2
# Rows to look ahead for prompts that begin alike, for each request in flight, and at most: what waits here is what the
# driver holds in memory, and spreads over that many more open shards.
_AHEAD_PER_REQUEST = 8
_MOST_AHEAD = 16_384


class Pool(Protocol):
    """What the coordinator needs of a pool; see `services.pool.ReplicaPool`."""

    members: list[Member]

    def hand(self, member: Member, rows: list[WorkRow]) -> None:
        """Gives rows to a serving replica."""
        ...

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """What happened, at once or within `timeout` seconds."""
        ...

    def replace(self, member: Member, cause: str) -> None:
        """Puts a new replica in the place of a dead one."""
        ...

    def reopen(self, member: Member) -> None:
        """Opens a new session with a replica that took this job for dead."""
        ...

    def served(self, member: Member) -> None:
        """Tells that a replica returned rows."""
        ...


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
        pool: Pool,
        context: RowContext,
        rows: Iterator[WorkRow],
        total: int,
        sink: Callable[[Finished], None],
        should_stop: Callable[[], bool],
        on_ready: Callable[[Member], None],
    ) -> None:
        self._pool, self._context = pool, context
        self._window = DispatchWindow(rows)
        self._left = total
        self._sink, self._should_stop, self._on_ready = sink, should_stop, on_ready
        self.cpu_seconds = 0.0
        """processor time of the thread in `run`"""

    @property
    def in_flight(self) -> int:
        """Rows that are with replicas now."""
        return sum(len(member.rows) for member in self._pool.members)

    def run(self) -> bool:
        """Returns True when every row was finished, False when it was told to stop.

        Raises:
            EngineError: the model or engine cannot be started, or keeps dying.
        """
        began = time.thread_time()
        try:
            while not self._should_stop():
                self._dispatch()
                if self._window.empty and not self.in_flight:
                    return True
                self._collect(_TICK_SECONDS)
            # What replicas had finished when the stop came is a message away.
            self._collect(_TICK_SECONDS)
            return False
        finally:
            self.cpu_seconds = time.thread_time() - began

    def _dispatch(self) -> None:
        serving = [member for member in self._pool.members if member.phase == "serving"]
        for member in serving:
            # At least one: the planner may have less left than was thought, and only asking it tells.
            fair = max(math.ceil(self._left / len(serving)), 1)
            room = min(member.share, fair) - len(member.rows)
            while room > 0 and (lease := self._window.take(member.number, min(room, _LEASE_ROWS))):
                self._pool.hand(member, lease)
                room -= len(lease)

    def _collect(self, timeout: float) -> None:
        for news in self._pool.wait(timeout):
            if isinstance(news, Returned):
                self._take(news.member, news.finished)
            elif isinstance(news, Ready):
                share = sum(member.share for member in self._pool.members)
                self._window.size = min(_AHEAD_PER_REQUEST * share, _MOST_AHEAD)
                self._on_ready(news.member)
            else:
                self._lose(news)

    def _take(self, member: Member, finished: Finished) -> None:
        if not finished.units:
            return
        for unit in finished.units:
            del member.rows[unit]
        self._left -= len(finished.units)
        self._pool.served(member)
        self._sink(finished)

    def _lose(self, lost: Lost) -> None:
        """Takes a dead replica's rows back, and those that saw too many engines die out of the job."""
        member, doomed, returned = lost.member, [], []
        for row in member.rows.values():
            row.attempt += lost.blamed
            (doomed if row.attempt >= _MOST_DEATHS else returned).append(row)
        self._window.put_back(returned)
        self._window.forget(member.number)
        if lost.blamed:
            self._pool.replace(member, lost.cause)
        else:
            self._pool.reopen(member)
        if doomed:
            self._left -= len(doomed)
            self._sink(self._failed(doomed, f"the engine died {_MOST_DEATHS} times under this row: {lost.cause}"))

    def _failed(self, rows: list[WorkRow], reason: str) -> Finished:
        context = self._context
        records = []
        for row in rows:
            seed = row_seed(context.run_seed, row.source, row.row_index, row.sample, context.variant)
            records.append(failed_record(row, context, seed, reason))
        return Finished.of(rows, to_batch(records))

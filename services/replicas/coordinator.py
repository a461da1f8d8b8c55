"""Hands rows to replicas one by one as room appears, and takes finished rows back. Lives in the driver.

There is no batch anywhere: each replica has about 1.1 x `max_num_seqs` requests in flight at all times, whatever lease
or shard they belong to, so that its engine never drains. What a pool is, Ray's actors or a simulation's events, is not
known here.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from schemas.errors import EngineError, StoppedError
from schemas.rows import FinishedRows, WorkRow, to_batch
from services.observability.metrics import ReplicaStatus
from services.replicas.dispatch_window import DispatchWindow
from services.replicas.replica_pool import Lost, Member, Ready, Returned
from services.replicas.row_records import VariantSettings, failed_record

# Rows in one message to a replica, at most.
_LEASE_ROWS = 64
# How long the loop sleeps when nothing happens; bounds how late a signal is seen.
_TICK_SECONDS = 0.2
# Rows under which a replica died run beside others so many at a time, and those of a second death alone. What dies
# alone then is the reason: at once where its engine told of its death; later where the whole process vanished, which
# more often is the machine's doing than a row's.
_SUSPECTS_TOGETHER = 8
_DEATHS_TO_ALONE = 2
_MOST_DEATHS = {"engine": 3, "process": 5}
# Where engines die under so many rows alone, one after the other, and none is finished between them, the rows are not
# the reason.
_MOST_IN_SEQUENCE = 8
# Rows to look ahead for prompts that begin alike, for each request in flight, and at most: what waits here is what the
# driver holds in memory, and spreads over that many more open shards.
_AHEAD_PER_REQUEST = 8
_MOST_AHEAD = 16_384


class Pool(Protocol):
    """What the coordinator needs of a pool; see `services.replicas.replica_pool.ReplicaPool`."""

    members: list[Member]

    def send(self, member: Member, rows: list[WorkRow]) -> None:
        """Gives rows to a serving replica."""
        ...

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """What happened, at once or within `timeout` seconds."""
        ...

    def replace(self, member: Member, cause: str, count_death: bool = True) -> None:
        """Puts a new replica in the place of a dead one."""
        ...

    def reopen_session(self, member: Member) -> None:
        """Opens a new session with a replica that took this job for dead."""
        ...

    def clear_deaths(self, member: Member) -> None:
        """Tells that a replica returned rows."""
        ...


class Coordinator:
    """Runs rows through a pool until none is left or it is told to stop.

    Args:
        pool: the replicas.
        variants: settings of each variant that rows have, by its name.
        rows: the rows to do, planned lazily.
        total: how many rows those are, at most; near the end they are shared out evenly.
        sink: takes finished rows; called from this thread.
        stop_within: polled several times a second; seconds in which rows in flight may still come to their end, or
            None while nobody wants an end.
        on_ready: called when a replica is up.
    """

    def __init__(
        self,
        pool: Pool,
        variants: Mapping[str, VariantSettings],
        rows: Iterator[WorkRow],
        total: int,
        sink: Callable[[FinishedRows], None],
        stop_within: Callable[[], float | None],
        on_ready: Callable[[Member], None],
    ) -> None:
        self._pool, self._variants = pool, variants
        self._window = DispatchWindow(rows)
        self._left = total
        self._sink, self._stop_within, self._on_ready = sink, stop_within, on_ready
        self._suspects: deque[WorkRow] = deque()
        self._accused: deque[WorkRow] = deque()
        self._condemned: list[FinishedRows] = []
        self._stopping = False
        self._rows: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._rows_at: dict[int, float] = {}
        self.cpu_seconds = 0.0
        """processor time of the thread in `run`"""

    @property
    def in_flight(self) -> int:
        """Rows that are with replicas now."""
        return sum(len(member.rows) for member in self._pool.members)

    def replicas(self) -> list[ReplicaStatus]:
        """How each replica is; may be asked from another thread."""
        return [
            ReplicaStatus(
                member.number, member.phase, len(member.rows), self._rows[member.number], self._deaths[member.number],
                self._rows_at.get(member.number),
            )
            for member in list(self._pool.members)
        ]  # fmt: skip

    def run(self) -> bool:
        """Returns True when every row was finished, False when it was told to stop.

        Raises:
            EngineError: the model or engine cannot be started, or keeps dying.
            StoppedError: replicas' processes do, for a reason that nobody told; or the cluster is gone.
        """
        began = time.thread_time()
        try:
            while self._stop_within() is None:
                self._dispatch()
                if self._all_finished():
                    return True
                self._collect(_TICK_SECONDS)
            return self._drain()
        finally:
            self.cpu_seconds = time.thread_time() - began

    def _drain(self) -> bool:
        """Waits for rows in flight as long as it may, and takes what replicas had finished: that is a message away."""
        self._stopping = True
        while self.in_flight and (left := self._stop_within()):
            self._collect(min(left, _TICK_SECONDS))
        if self.in_flight:
            self._collect(_TICK_SECONDS)
        return self._all_finished()

    def _all_finished(self) -> bool:
        if not self._window.empty or self.in_flight or self._suspects or self._accused:
            return False
        self._tell_condemned()
        return True

    def _dispatch(self) -> None:
        serving = [member for member in self._pool.members if member.phase == "serving"]
        court = self._court(serving)
        for member in serving:
            if member is court:
                if self._accused and not member.rows:
                    self._pool.send(member, [self._accused.popleft()])
                continue
            # At least one: the planner may have less left than was thought, and only asking it tells.
            fair = max(math.ceil(self._left / len(serving)), 1)
            room = min(member.share, fair) - len(member.rows)
            if self._suspects and room > 0:
                room -= self._hand_suspects(member, room)
            while room > 0 and (lease := self._window.take(member.number, min(room, _LEASE_ROWS))):
                self._pool.send(member, lease)
                room -= len(lease)

    def _court(self, serving: list[Member]) -> Member | None:
        """The replica that runs the accused alone, where there are some; it takes no other rows meanwhile."""
        for member in serving:
            if len(member.rows) == 1 and all(row.attempt >= _DEATHS_TO_ALONE for row in member.rows.values()):
                return member
        return min(serving, key=lambda member: len(member.rows), default=None) if self._accused else None

    def _hand_suspects(self, member: Member, room: int) -> int:
        there = sum(row.attempt > 0 for row in member.rows.values())
        number = min(_SUSPECTS_TOGETHER - there, room, len(self._suspects))
        if number > 0:
            self._pool.send(member, [self._suspects.popleft() for _ in range(number)])
        return max(number, 0)

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

    def _take(self, member: Member, finished: FinishedRows) -> None:
        if not finished.output_ids:
            return
        for output_id in finished.output_ids:
            member.rows.pop(output_id, None)
        self._left -= len(finished.output_ids)
        self._rows[member.number] += len(finished.output_ids)
        self._rows_at[member.number] = time.time()
        self._pool.clear_deaths(member)
        self._tell_condemned()
        self._sink(finished)

    def _lose(self, lost: Lost) -> None:
        """Takes a dead replica's rows back, and a row that proved to be the reason out of the job."""
        member, rows = lost.member, list(lost.member.rows.values())
        alone = len(rows) == 1 and rows[0].attempt >= _DEATHS_TO_ALONE
        self._window.forget(member.number)
        self._deaths[member.number] += lost.what_ended != "session"
        if lost.what_ended in _MOST_DEATHS:
            self._suspect(rows, lost)
        else:
            self._window.put_back([row for row in rows if not row.attempt])
            self._suspects += [row for row in rows if row.attempt]
        if self._stopping:
            member.rows.clear()
            member.phase = "lost"
        elif lost.what_ended == "session":
            self._pool.reopen_session(member)
        else:
            self._pool.replace(member, lost.cause, count_death=not alone and lost.what_ended != "node")

    def _suspect(self, rows: list[WorkRow], lost: Lost) -> None:
        for row in rows:
            row.attempt += 1
        if len(rows) == 1 and rows[0].attempt >= _MOST_DEATHS[lost.what_ended]:
            self._left -= 1
            reason = f"an engine died {rows[0].attempt} times under this row, and at last under it alone: {lost.cause}"
            return self._condemn(self._failed(rows, reason), lost)
        self._suspects += [row for row in rows if row.attempt < _DEATHS_TO_ALONE]
        self._accused += [row for row in rows if row.attempt >= _DEATHS_TO_ALONE]

    def _condemn(self, failed: FinishedRows, lost: Lost) -> None:
        """Keeps a verdict until a row is finished, which shows that engines can do their work."""
        self._condemned.append(failed)
        if len(self._condemned) < _MOST_IN_SEQUENCE:
            return
        cause = f"engines died under each of {len(self._condemned)} rows alone, and finished none between: {lost.cause}"
        remedy = "see the replica's log in Ray's session folder; no row is blamed, and the same command tries again"
        raise (EngineError if lost.what_ended == "engine" else StoppedError)("cluster", None, cause, remedy)

    def _tell_condemned(self) -> None:
        for failed in self._condemned:
            self._sink(failed)
        self._condemned.clear()

    def _failed(self, rows: list[WorkRow], reason: str) -> FinishedRows:
        records = []
        for row in rows:
            settings = self._variants[row.variant]
            records.append(failed_record(row, settings, settings.seed_of(row), reason))
        return FinishedRows.of(rows, to_batch(records))

"""Sends rows to replicas as soon as they have capacity, and takes finished rows back. Runs in the driver.

Invariant: every row taken from the window reaches the sink exactly once, whatever dies. Until then it is in exactly one
place: with a replica (`Member.rows`), in one of the queues of rows that wait to be sent again, or in quarantine. Only a
job that stops leaves rows behind, and those were not given to the sink: the next start does them.

There are no synchronous batches. Each replica has about 1.1 x `max_num_seqs` requests in flight at all times, from
whatever shards, so that its engine is never idle between batches.

Rows under which replicas die
    A prompt can kill an engine, and the driver cannot see which of the rows in flight did. So the rows of a dead
    replica are narrowed down. After the first death they are suspect: they run again, a few at a time beside other
    rows. After a second death a row is isolated: it runs alone on one replica. A good row is finished on the way. Where
    replicas die under a row that runs alone, that row is the cause and fails.
    Engines can also die of a broken machine, under any row. Therefore a failed row stays in quarantine until any other
    row is finished, which proves that engines can work. If many rows fail one after the other with no finished row
    between them, the job ends with an error and no row is blamed.

The coordinator works on any `Pool`: Ray actors in production, simulated replicas in `kindling bench scale`.
"""

import logging
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from schemas.errors import EngineError, StoppedError
from schemas.rows import FinishedRows, WorkRow, to_batch
from schemas.text import plural
from services.observability.metrics import ReplicaStatus
from services.replicas.dispatch_window import DispatchWindow
from services.replicas.members import Lost, Member, Ready, Returned
from services.replicas.row_records import VariantSettings, failed_record

_log = logging.getLogger("kindling")

# Largest batch of rows, that is, rows in one message to a replica.
_MAX_BATCH_ROWS = 64
# Longest time that the loop sleeps while nothing happens; a stop signal is noticed after that time at the latest.
_TICK_SECONDS = 0.2
# Suspect rows that a replica may have at the same time: enough to be quick, few enough to isolate few good rows when it
# dies again.
_MAX_SUSPECT_ROWS = 8
_DEATHS_TO_ISOLATE = 2
# Deaths after which an isolated row fails, by what ended the replica. An engine that reported its own death died of the
# row. A process that vanished is more often killed by the machine (out of memory), so it takes more of those.
_DEATHS_TO_FAIL = {"engine": 3, "process": 5}
# Rows in quarantine at which engines are taken for broken.
_MAX_QUARANTINED_ROWS = 8
# Rows that the window looks ahead, per request in flight and in all. A larger window finds longer runs of one prefix,
# but holds more rows in memory and spreads rows in flight over more open shards.
_WINDOW_ROWS_PER_REQUEST = 8
_MAX_WINDOW_ROWS = 16_384
# Characters of the rows that a replica has, beside the last message: more requests of such a size no engine runs.
_MAX_CHARACTERS_IN_FLIGHT = 64 << 20


class Pool(Protocol):
    """The part of a pool that the coordinator uses; see `services.replicas.replica_pool.ReplicaPool`."""

    members: list[Member]

    def send(self, member: Member, rows: list[WorkRow]) -> None:
        """Sends a batch of rows to a serving replica."""
        ...

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """Returns the events since the last call, or the first within `timeout` seconds."""
        ...

    def replace(self, member: Member, cause: str, count_death: bool = True) -> None:
        """Puts a new replica in the place of a dead one."""
        ...

    def reopen_session(self, member: Member) -> None:
        """Opens a new session with a live replica that closed this job's session."""
        ...

    def clear_deaths(self, member: Member) -> None:
        """Forgets the deaths in a replica's place, because the replica returned rows."""
        ...


class Coordinator:
    """Runs rows through a pool until none is left or the job is to stop.

    Args:
        pool: replicas that run the rows.
        variants: settings of each variant that rows have, by its name.
        rows: rows to do, planned lazily.
        total: upper bound of their number; used to share out the last rows evenly.
        sink: takes finished rows; called from the thread in `run`.
        stop_within: None until a stop signal came, then the seconds in which rows in flight may still finish; called
            several times a second.
        on_ready: called with each replica that begins to serve.
        max_in_flight: returns the number of rows that all replicas may have together; none is sent beyond it.
        is_resumable: returns whether a next start generates the rows that a stop leaves; a stop then logs how many.
        looks_ahead: the window holds many rows, to find longer runs of one prefix; else only those to be sent next.
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
        max_in_flight: Callable[[], int] = lambda: sys.maxsize,
        is_resumable: Callable[[], bool] = lambda: True,
        looks_ahead: bool = True,
    ) -> None:
        self._pool, self._variants = pool, variants
        self._window = DispatchWindow(rows)
        self._unfinished = total
        self._sink, self._stop_within, self._on_ready = sink, stop_within, on_ready
        self._max_in_flight = max_in_flight
        self._rows_per_request = _WINDOW_ROWS_PER_REQUEST if looks_ahead else 1
        self._is_resumable = is_resumable
        self._suspect_rows: deque[WorkRow] = deque()
        self._isolated_rows: deque[WorkRow] = deque()
        self._quarantine: list[FinishedRows] = []
        self._is_stopping = False
        self._characters: Counter[int] = Counter()  # of the rows that each replica has
        self._finished_rows: Counter[int] = Counter()
        self._deaths: Counter[int] = Counter()
        self._last_rows_at: dict[int, float] = {}
        self.cpu_seconds = 0.0
        """processor time of the thread in `run`, known when it returned"""

    @property
    def in_flight(self) -> int:
        """Number of rows that replicas have now."""
        return sum(len(member.rows) for member in self._pool.members)

    def replicas(self) -> list[ReplicaStatus]:
        """Returns the status of each replica; may be called from any thread."""
        return [
            ReplicaStatus(
                number=member.number,
                state=member.phase,
                in_flight=len(member.rows),
                rows=self._finished_rows[member.number],
                deaths=self._deaths[member.number],
                last_rows_at=self._last_rows_at.get(member.number),
            )
            for member in list(self._pool.members)
        ]

    def run(self) -> bool:
        """Runs the rows.

        Returns:
            True when every row was finished, False when the job was stopped before.

        Raises:
            EngineError: the model or engine cannot be started, or engines keep dying.
            JobError: the engine refuses the job's sampling for every row.
            StoppedError: processes of replicas keep vanishing without a reason, or the cluster is gone.
        """
        start = time.thread_time()
        try:
            while self._stop_within() is None:
                self._dispatch()
                if self._all_finished():
                    return True
                self._handle_events(_TICK_SECONDS)
            return self._drain()
        finally:
            self.cpu_seconds = time.thread_time() - start

    def _drain(self) -> bool:
        """Waits for rows in flight as long as the stop signal allows, and sends no more."""
        self._is_stopping = True
        level = logging.WARNING if self._is_resumable() else logging.DEBUG
        if self.in_flight and (seconds_left := self._stop_within()):
            _log.log(level, f"finishing {plural(self.in_flight, 'row')} in flight, up to {seconds_left:.0f} s more")
        while self.in_flight and (seconds_left := self._stop_within()):
            self._handle_events(min(seconds_left, _TICK_SECONDS))
        if self.in_flight:
            # Rows that replicas had already finished are one message away; without this look they would be lost.
            self._handle_events(_TICK_SECONDS)
        if self.in_flight:
            _log.log(level, f"{plural(self.in_flight, 'row')} in flight given up: the next start generates them anew")
        return self._all_finished()

    def _all_finished(self) -> bool:
        if not self._window.is_empty or self.in_flight or self._suspect_rows or self._isolated_rows:
            return False
        # All other rows are done. Fewer rows are in quarantine than would prove the engines broken, so they failed.
        self._release_quarantine()
        return True

    def _dispatch(self) -> None:
        """Fills every serving replica up to its share, while more rows may be in flight."""
        serving = [member for member in self._pool.members if member.phase == "serving"]
        isolation_replica = self._isolation_replica(serving)
        allowed = self._max_in_flight()
        for member in serving:
            room = allowed - self.in_flight if allowed < self._unfinished else allowed
            if member is isolation_replica:
                # It takes no other rows, and so runs empty before it gets the first isolated one.
                if self._isolated_rows and not member.rows and room > 0:
                    self._send(member, [self._isolated_rows.popleft()])
                continue
            # Near the end the rows that are left are shared out evenly. At least one row is asked for: `total` is only
            # an upper bound, and the window learns that the planner has no more rows only by asking.
            even_share = max(math.ceil(min(self._unfinished, allowed) / len(serving)), 1)
            capacity = min(min(member.share, even_share) - len(member.rows), room)
            if self._suspect_rows and capacity > 0:
                capacity -= self._send_suspect_rows(member, capacity)
            while capacity > 0 and self._characters[member.number] < _MAX_CHARACTERS_IN_FLIGHT:
                if not (batch := self._window.take(member.number, min(capacity, _MAX_BATCH_ROWS))):
                    break
                self._send(member, batch)
                capacity -= len(batch)

    def _send(self, member: Member, rows: list[WorkRow]) -> None:
        self._pool.send(member, rows)
        self._characters[member.number] += sum(row.characters for row in rows)

    def _isolation_replica(self, serving: list[Member]) -> Member | None:
        """Returns the replica that runs isolated rows, one at a time; None while there are no such rows."""
        for member in serving:
            if len(member.rows) == 1 and all(row.attempt >= _DEATHS_TO_ISOLATE for row in member.rows.values()):
                return member
        # The least busy replica is empty first.
        return min(serving, key=lambda member: len(member.rows), default=None) if self._isolated_rows else None

    def _send_suspect_rows(self, member: Member, capacity: int) -> int:
        """Sends a replica as many suspect rows as it may have, and returns their number."""
        in_flight = sum(row.attempt > 0 for row in member.rows.values())
        count = max(min(_MAX_SUSPECT_ROWS - in_flight, capacity, len(self._suspect_rows)), 0)
        if count:
            self._send(member, [self._suspect_rows.popleft() for _ in range(count)])
        return count

    def _handle_events(self, timeout: float) -> None:
        for event in self._pool.wait(timeout):
            if isinstance(event, Returned):
                self._take_finished(event.member, event.finished)
            elif isinstance(event, Ready):
                share = sum(member.share for member in self._pool.members)
                self._window.size = min(self._rows_per_request * share, _MAX_WINDOW_ROWS)
                self._on_ready(event.member)
            else:
                self._take_back(event)

    def _take_finished(self, member: Member, finished: FinishedRows) -> None:
        if not finished.output_ids:
            return
        for output_id in finished.output_ids:
            if row := member.rows.pop(output_id, None):
                self._characters[member.number] -= row.characters
        self._unfinished -= len(finished.output_ids)
        self._finished_rows[member.number] += len(finished.output_ids)
        self._last_rows_at[member.number] = time.time()
        self._pool.clear_deaths(member)
        self._release_quarantine()
        self._sink(finished)

    def _take_back(self, lost: Lost) -> None:
        """Queues the rows of a lost replica again, or fails the row that killed it; then replaces the replica."""
        member, rows = lost.member, list(lost.member.rows.values())
        was_isolated = len(rows) == 1 and rows[0].attempt >= _DEATHS_TO_ISOLATE
        self._window.release(member.number)
        self._characters[member.number] = 0
        self._deaths[member.number] += lost.what_ended != "session"
        if lost.what_ended in _DEATHS_TO_FAIL:
            self._suspect(rows, lost)
        else:
            # A lost node or session says nothing about rows, so no attempt is counted.
            self._window.put_back([row for row in rows if not row.attempt])
            self._suspect_rows += [row for row in rows if row.attempt]
        if self._is_stopping:
            member.rows.clear()
            member.phase = "lost"
        elif lost.what_ended == "session":
            self._pool.reopen_session(member)
        else:
            # A death under an isolated row is the row's doing, and a lost node is not the replica's.
            self._pool.replace(member, lost.cause, count_death=not was_isolated and lost.what_ended != "node")

    def _suspect(self, rows: list[WorkRow], lost: Lost) -> None:
        """Counts a death for the rows that ran, and queues each by its number of deaths; fails a row that ran alone."""
        for row in rows:
            row.attempt += 1
        if len(rows) == 1 and rows[0].attempt >= _DEATHS_TO_FAIL[lost.what_ended]:
            self._fail(rows[0], lost)
            return
        self._suspect_rows += [row for row in rows if row.attempt < _DEATHS_TO_ISOLATE]
        self._isolated_rows += [row for row in rows if row.attempt >= _DEATHS_TO_ISOLATE]

    def _fail(self, row: WorkRow, lost: Lost) -> None:
        """Puts a row that killed its replica into quarantine.

        Raises:
            EngineError: so many rows in sequence killed their engines that the engines must be broken.
            StoppedError: the same, but processes vanished; the machine is the likelier cause.
        """
        self._unfinished -= 1
        reason = f"an engine died {row.attempt} times under this row, the last time under this row alone: {lost.cause}"
        settings = self._variants[row.variant]
        record = failed_record(row, settings, settings.seed_of(row), reason)
        self._quarantine.append(FinishedRows.of([row], to_batch([record], settings.schema)))
        if len(self._quarantine) < _MAX_QUARANTINED_ROWS:
            return
        cause = (
            f"engines died under each of {len(self._quarantine)} rows alone, and no row was finished between: "
            f"{lost.cause}"
        )
        remedy = "see the replica's log in Ray's session folder; no row is blamed, and the same command tries again"
        raise (EngineError if lost.what_ended == "engine" else StoppedError)("cluster", None, cause, remedy)

    def _release_quarantine(self) -> None:
        """Gives the rows in quarantine to the sink: another row was finished, so engines work and those rows failed."""
        for failed in self._quarantine:
            self._sink(failed)
        self._quarantine.clear()

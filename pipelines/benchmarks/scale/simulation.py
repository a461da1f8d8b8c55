"""A pool of simulated replicas on a virtual clock: the real coordinator runs against hundreds of them in seconds.

The model is a discrete-event simulation of `services.replicas.replica_pool.ReplicaPool` and its actors:

- an engine has `max_num_seqs` slots. A row waits until one is free, and then takes the seconds of the fake engine's
  latency model;
- a message between driver and replica takes a fixed time each way;
- the driver asks each replica for finished rows. The replica answers when they fill a message, or when the oldest one
  has waited long enough, by the same rules as `services.replicas.replica.Replica`;
- the driver is one thread. Each row that it takes back keeps it busy for a given time, in which the clock goes on and
  no replica gets new rows: engines may run empty.

Invariant: the clock never goes back, and events happen in the order of their times.
"""

import functools
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from schemas.rows import ACCEPTED, ROW_SCHEMA, FinishedRows, WorkRow, to_batch
from services.engines.fake_engine import MAX_WORDS, MIN_WORDS, LatencyModel
from services.replicas.members import Lost, Member, Ready, Returned
from services.replicas.sessions import MAX_WAIT_SECONDS, MIN_WAIT_SECONDS, OVERSUBSCRIPTION, full_message_rows

# One way between driver and replica, on one machine or in one cluster: Ray's own cost of a small call.
_MESSAGE_SECONDS = 0.001


class IdealPool:
    """Slots that take rows in the order they come, each row as soon as a slot is free.

    No scheduler that keeps this order is faster.

    Args:
        slots: requests that all replicas together run at once.
    """

    def __init__(self, slots: int) -> None:
        self._free_at = [0.0] * slots

    def run(self, seconds: float) -> None:
        """Runs the next row, which takes this long."""
        heapq.heapreplace(self._free_at, self._free_at[0] + seconds)

    @property
    def seconds(self) -> float:
        """Time at which the last row is done."""
        return max(self._free_at)


@dataclass
class _Replica:
    """The part of a replica that the driver does not see.

    Attributes:
        running: rows in the engine's slots.
        queue: rows that wait for a slot.
        finished: rows that were not sent back yet.
        polled: whether the driver's question for finished rows is on its way to the replica, or waits there.
        asked: whether the question has arrived and is not answered yet.
        answer_from: earliest time of an answer with a full message.
        answer_by: time of an answer with any number of rows; infinite while no row waits for an answer.
    """

    member: Member
    running: int = 0
    queue: deque[WorkRow] = field(default_factory=deque)
    finished: list[WorkRow] = field(default_factory=list)
    polled: bool = False
    asked: bool = False
    answer_from: float = math.inf
    answer_by: float = math.inf


_Handler = Callable[[float, _Replica, list[WorkRow]], None]


class SimulatedPool:
    """A `services.replicas.coordinator.Pool` of simulated replicas; see the module for the model.

    Args:
        replicas: number of replicas.
        latency: model of each engine.
        prompt_tokens: prompt tokens of each row.
        driver_seconds_per_row: time for which the driver is busy with one row, from its plan to its commit.

    Attributes:
        now: seconds on the virtual clock.
        rows: number of rows finished so far.
    """

    def __init__(self, replicas: int, latency: LatencyModel, prompt_tokens: int, driver_seconds_per_row: float) -> None:
        share = math.ceil(latency.max_num_seqs * OVERSUBSCRIPTION)
        self.members = [Member(number, None, phase="serving", share=share) for number in range(replicas)]
        self.now = 0.0
        self.rows = 0
        self._ideal = IdealPool(replicas * latency.max_num_seqs)
        self._latency, self._prompt_tokens = latency, prompt_tokens
        self._driver_seconds_per_row = driver_seconds_per_row
        self._replicas = [_Replica(member) for member in self.members]
        self._full_message_rows = full_message_rows(share)
        self._draw = random.Random(0)
        self._events: list[tuple[float, int, _Handler, _Replica, list[WorkRow]]] = []
        # Events of one time happen in the order in which they were scheduled.
        self._order = itertools.count()
        self._inbox: deque[Ready | Returned | Lost] = deque(Ready(member) for member in self.members)

    @property
    def ideal_seconds(self) -> float:
        """Time that the same rows would take if messages and the driver took no time."""
        return self._ideal.seconds

    def send(self, member: Member, rows: list[WorkRow]) -> None:
        """Sends rows to a replica; see `services.replicas.replica_pool.ReplicaPool.send`."""
        member.rows.update((row.output_id, row) for row in rows)
        self._schedule(self.now + _MESSAGE_SECONDS, self._receive_rows, self._replicas[member.number], rows)

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """Moves the clock on to the next answer; see `services.replicas.replica_pool.ReplicaPool.wait`."""
        for replica in self._replicas:
            if not replica.polled:
                replica.polled = True
                self._schedule(self.now + _MESSAGE_SECONDS, self._receive_question, replica)
        until = self.now + timeout
        # With an answer in the inbox only the events that are already due happen: the driver wakes up now.
        while self._events and self._events[0][0] <= (self.now if self._inbox else until):
            at, _, handle, replica, rows = heapq.heappop(self._events)
            self.now = max(self.now, at)
            handle(at, replica, rows)
        news = list(self._inbox)
        self._inbox.clear()
        if not news:
            self.now = until
        returned = sum(len(message.finished.output_ids) for message in news if isinstance(message, Returned))
        # The driver is busy with these rows. What happens meanwhile is handled at the next call, late for the driver
        # and in time for the replicas.
        self.now += returned * self._driver_seconds_per_row
        return news

    def replace(self, member: Member, cause: str, count_death: bool = True) -> None:
        """Raises NotImplementedError: simulated replicas do not die."""
        raise NotImplementedError(cause)

    def reopen_session(self, member: Member) -> None:
        """Raises NotImplementedError: simulated replicas forget no job."""
        raise NotImplementedError

    def clear_deaths(self, member: Member) -> None:
        """Does nothing: simulated replicas do not die."""

    def _schedule(self, at: float, handle: _Handler, replica: _Replica, rows: list[WorkRow] | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), handle, replica, rows or []))

    def _receive_rows(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.queue.extend(rows)
        self._fill_slots(at, replica)

    def _receive_question(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.asked = True
        self._answer_if_due(at, replica, rows)

    def _finish(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.running -= 1
        replica.finished += rows
        self._fill_slots(at, replica)
        self._answer_if_due(at, replica, rows)

    def _answer_if_due(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        """Sends the finished rows where they fill a message, or have waited long enough."""
        if not replica.asked or not replica.finished:
            return
        if replica.answer_by == math.inf:
            replica.answer_from, replica.answer_by = at + MIN_WAIT_SECONDS, at + MAX_WAIT_SECONDS
            self._schedule(replica.answer_from, self._answer_if_due, replica)
            self._schedule(replica.answer_by, self._answer_if_due, replica)
        is_idle = not replica.running and not replica.queue
        is_complete = is_idle or len(replica.finished) >= self._full_message_rows
        if (is_complete and at >= replica.answer_from) or at >= replica.answer_by:
            self._schedule(at + _MESSAGE_SECONDS, self._receive_answer, replica, replica.finished)
            replica.finished, replica.answer_by, replica.asked = [], math.inf, False

    def _receive_answer(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.polled = False
        self.rows += len(rows)
        self._inbox.append(Returned(replica.member, FinishedRows.of(rows, _batch(rows), replica.member.share)))

    def _fill_slots(self, at: float, replica: _Replica) -> None:
        while replica.queue and replica.running < self._latency.max_num_seqs:
            row = replica.queue.popleft()
            replica.running += 1
            words = self._draw.randint(MIN_WORDS, MAX_WORDS)
            seconds = self._latency.request_seconds(self._prompt_tokens, words)
            self._ideal.run(seconds)
            self._schedule(at + seconds, self._finish, replica, [row])


def _batch(rows: list[WorkRow]) -> pa.RecordBatch:
    """Returns the rows as accepted ones. All have the same text: only the columns that identify a row are made anew."""
    own = {
        "source": pa.array([row.source for row in rows], pa.string()),
        "row_index": pa.array([row.row_index for row in rows], pa.int64()),
        "sample": pa.array([row.sample for row in rows], pa.int32()),
    }
    equal = _equal_rows(len(rows))
    return pa.RecordBatch.from_arrays(
        [own.get(name, column) for name, column in zip(ROW_SCHEMA.names, equal, strict=True)], schema=ROW_SCHEMA
    )


@functools.cache
def _equal_rows(number: int) -> list[pa.Array]:
    return _ROW.take(pa.array([0] * number, pa.int64())).columns


ROW_RECORD: dict[str, Any] = {
    "text": "the quiet boat drifts past a little garden " * 4,
    "state": ACCEPTED,
    "reason": "",
    "emotion": "joy",
    "emotions": ["joy"],
    "inputs": '{"context": "A small boat on a quiet river.", "emotion": "joy"}',
    "source": "",
    "row_index": 0,
    "sample": 0,
    "variant": "default",
    "prompt_id": "simulated",
    "prompt_hash": "0" * 16,
    "model": "simulated",
    "model_revision": "simulated",
    "seed": 0,
    "finish_reason": "stop",
    "prompt_tokens": 400,
    "cached_prompt_tokens": 0,
    "output_tokens": 32,
    "attempts": 1,
    "started_at": datetime.now(UTC),
    "duration_seconds": 1.0,
}
"""a row of ROW_SCHEMA from which the simulated rows are made"""
_ROW = to_batch([ROW_RECORD])

"""A pool of fake replicas on a virtual clock: the real coordinator runs against hundreds of them in seconds.

A discrete-event model of `services.replicas.replica_pool.ReplicaPool` and its actors. The time of a row comes from the
fake engine's latency model; the time of a message, and of the driver's work on a row, is given. The driver is one
thread, so its work delays all replicas; the simulation shows by how much.
"""

import functools
import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from schemas.rows import ACCEPTED, ROW_SCHEMA, FinishedRows, WorkRow, to_batch
from services.engines.fake_engine import MAX_WORDS, MIN_WORDS, LatencyModel
from services.replicas.replica import MAX_WAIT_SECONDS, MIN_WAIT_SECONDS, OVERSUBSCRIPTION, full_message_rows
from services.replicas.replica_pool import Lost, Member, Ready, Returned

# One way between driver and replica, on one machine or in one cluster: Ray's own cost of a small call.
_MESSAGE_SECONDS = 0.001


class IdealPool:
    """Slots that take rows in the order they come, each as soon as one is free: what no scheduler of that order beats.

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
        """When the last row is done."""
        return max(self._free_at)


@dataclass
class _Replica:
    """What the driver does not see of a replica: its engine's slots, and what waits there."""

    member: Member
    running: int = 0
    queue: deque[WorkRow] = field(default_factory=deque)
    finished: list[WorkRow] = field(default_factory=list)
    is_called: bool = False
    asked: bool = False
    answer_from: float = math.inf
    answer_by: float = math.inf


class SimulatedPool:
    """See the module; to the coordinator it is a pool like any other.

    Args:
        replicas: their number.
        latency: of each engine.
        prompt_tokens: of each row.
        driver_seconds_per_row: how long the driver is busy with one row, all told.

    Attributes:
        now: seconds on the virtual clock.
        rows: finished so far.
        ideal_seconds: in which the same rows would be done if messages and the driver took no time.
    """

    def __init__(self, replicas: int, latency: LatencyModel, prompt_tokens: int, driver_seconds_per_row: float) -> None:
        self.members = [Member(number, None) for number in range(replicas)]
        self.now = 0.0
        self.rows = 0
        self._ideal = IdealPool(replicas * latency.max_num_seqs)
        self._latency, self._prompt_tokens = latency, prompt_tokens
        self._driver_seconds_per_row = driver_seconds_per_row
        self._replicas = [_Replica(member) for member in self.members]
        self._many = full_message_rows(math.ceil(latency.max_num_seqs * OVERSUBSCRIPTION))
        self._draw = random.Random(0)
        self._events: list[tuple[float, int, str, _Replica, list[WorkRow]]] = []
        self._order = itertools.count()
        self._inbox: deque[Ready | Returned | Lost] = deque(Ready(member) for member in self.members)
        for member in self.members:
            member.phase, member.share = "serving", math.ceil(latency.max_num_seqs * OVERSUBSCRIPTION)

    @property
    def ideal_seconds(self) -> float:
        """See the class."""
        return self._ideal.seconds

    def send(self, member: Member, rows: list[WorkRow]) -> None:
        """See `services.replicas.replica_pool.ReplicaPool.send`."""
        member.rows.update((row.output_id, row) for row in rows)
        self._at(self.now + _MESSAGE_SECONDS, "arrived", self._replicas[member.number], rows)

    def wait(self, timeout: float) -> list[Ready | Returned | Lost]:
        """See `services.replicas.replica_pool.ReplicaPool.wait`; moves the clock on to the next message."""
        for replica in self._replicas:
            if not replica.is_called:
                replica.is_called = True
                self._at(self.now + _MESSAGE_SECONDS, "asked", replica, [])
        until = self.now + timeout
        while self._events and self._events[0][0] <= (self.now if self._inbox else until):
            at, _, what, replica, rows = heapq.heappop(self._events)
            self.now = max(self.now, at)
            getattr(self, f"_{what}")(at, replica, rows)
        news = list(self._inbox)
        self._inbox.clear()
        if not news:
            self.now = until
        finished = sum(len(each.finished.output_ids) for each in news if isinstance(each, Returned))
        self.now += finished * self._driver_seconds_per_row
        return news

    def replace(self, member: Member, cause: str, count_death: bool = True) -> None:
        """Simulated replicas do not die."""
        raise NotImplementedError(cause)

    def reopen_session(self, member: Member) -> None:
        """Simulated replicas forget no job."""
        raise NotImplementedError

    def clear_deaths(self, member: Member) -> None:
        """See `services.replicas.replica_pool.ReplicaPool.clear_deaths`."""

    def _at(self, time: float, what: str, replica: _Replica, rows: list[WorkRow]) -> None:
        heapq.heappush(self._events, (time, next(self._order), what, replica, rows))

    def _arrived(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.queue.extend(rows)
        self._fill(at, replica)

    def _asked(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.asked = True
        self._answer(at, replica, rows)

    def _done(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.running -= 1
        replica.finished += rows
        self._fill(at, replica)
        self._answer(at, replica, rows)

    def _answer(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        """Lets finished rows travel where they are many, or have waited long enough."""
        if not replica.asked or not replica.finished:
            return
        if replica.answer_by == math.inf:
            replica.answer_from, replica.answer_by = at + MIN_WAIT_SECONDS, at + MAX_WAIT_SECONDS
            self._at(replica.answer_from, "answer", replica, [])
            self._at(replica.answer_by, "answer", replica, [])
        none_to_come = not replica.running and not replica.queue
        many = none_to_come or len(replica.finished) >= self._many
        if (many and at >= replica.answer_from) or at >= replica.answer_by:
            self._at(at + _MESSAGE_SECONDS, "came", replica, replica.finished)
            replica.finished, replica.answer_by, replica.asked = [], math.inf, False

    def _came(self, at: float, replica: _Replica, rows: list[WorkRow]) -> None:
        replica.is_called = False
        self.rows += len(rows)
        self._inbox.append(Returned(replica.member, FinishedRows.of(rows, _batch(rows), replica.member.share)))

    def _fill(self, at: float, replica: _Replica) -> None:
        while replica.queue and replica.running < self._latency.max_num_seqs:
            row = replica.queue.popleft()
            replica.running += 1
            words = self._draw.randint(MIN_WORDS, MAX_WORDS)
            seconds = self._latency.request_seconds(self._prompt_tokens, words)
            self._ideal.run(seconds)
            self._at(at + seconds, "done", replica, [row])


def _batch(rows: list[WorkRow]) -> pa.RecordBatch:
    """The rows as accepted ones, all with the same text: only what tells them apart is made anew for each."""
    own = {
        "source": pa.array([row.source for row in rows], pa.string()),
        "row_index": pa.array([row.row_index for row in rows], pa.int64()),
        "sample": pa.array([row.sample for row in rows], pa.int32()),
    }
    alike = _rows_alike(len(rows))
    return pa.RecordBatch.from_arrays(
        [own.get(name, column) for name, column in zip(ROW_SCHEMA.names, alike, strict=True)], schema=ROW_SCHEMA
    )


@functools.cache
def _rows_alike(number: int) -> list[pa.Array]:
    return _MODEL_ROW.take(pa.array([0] * number, pa.int64())).columns


MODEL_RECORD = {
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
_MODEL_ROW = to_batch([MODEL_RECORD])

"""One job's rows inside a replica: when prompts go to the engine, and when finished rows travel to the driver."""

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pyarrow as pa

from schemas.rows import WorkRow, characters_in
from services.engines.engine import EngineInfo
from services.replicas.row_records import VariantSettings

# Requests in flight for each one that the engine runs. Those above 1 wait inside the engine, with their prompts
# tokenized, so that the next one starts in the step after another has finished.
OVERSUBSCRIPTION = 1.1
# A message costs the driver many times what one row costs it, so finished rows wait for others to travel with: MIN in
# any case, and up to MAX while there are few of them.
MIN_WAIT_SECONDS = 0.02
MAX_WAIT_SECONDS = 1.0
# Share of the requests that wait inside the engine. When so many rows have finished, a message must leave: if all had,
# the engine would run out of requests before new ones arrive.
_FULL_MESSAGE_SHARE = 0.7
# Characters of finished rows in one message, beside its last row.
_MAX_MESSAGE_CHARACTERS = 8 << 20
# An `exchange` with no finished rows returns after this time, so that the driver knows that the replica lives.
_EXCHANGE_TIMEOUT_SECONDS = 2.0


class SessionLostError(Exception):
    """This job's session was closed because the job was silent; its rows must be sent again in a new session."""


@dataclass(frozen=True)
class OpenedSession:
    """A replica's answer to a job that opens a session.

    Attributes:
        info: facts of the engine.
        node: id of the Ray node that the replica is on.
        cores: numbers of the CPU cores that its engine computes on; empty on GPUs.
        cores_missing: number of cores that it should have and that other engines reserved.
        share: number of requests that the job may have in flight.
    """

    info: EngineInfo
    node: str
    cores: tuple[int, ...]
    cores_missing: int
    share: int


@dataclass
class Session:
    """One job's rows in a replica.

    Attributes:
        variants: settings of each variant that rows have, by its name.
        records: finished rows that were not returned yet, with their records.
        tasks: tasks of the rows that are running.
        last_call_at: time of the job's last call, on the monotonic clock; infinity while an `exchange` is waiting.
    """

    variants: dict[str, VariantSettings]
    records: list[tuple[WorkRow, dict[str, Any]]] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    last_call_at: float = field(default_factory=monotonic)
    _has_records: asyncio.Event = field(default_factory=asyncio.Event)
    _is_full: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def schema(self) -> pa.Schema:
        """Columns of its records, which all variants of a job share."""
        return next(iter(self.variants.values())).schema

    def add(self, row: WorkRow, record: dict[str, Any], full_message: int) -> None:
        """Keeps a finished row until it is returned; called from the row's own task.

        Args:
            row: the row.
            record: its record, with the columns of `schema`.
            full_message: number of rows at which a message leaves at once.
        """
        self.records.append((row, record))
        self._has_records.set()
        # The task that calls this is still one of the tasks. Without another one, nothing more is to come.
        if len(self.tasks) <= 1 or len(self.records) >= full_message:
            self._is_full.set()

    async def wait(self) -> None:
        """Waits until records should be returned, or for a while where there are none."""
        self.last_call_at = math.inf
        try:
            await asyncio.wait_for(self._has_records.wait(), _EXCHANGE_TIMEOUT_SECONDS)
            await asyncio.sleep(MIN_WAIT_SECONDS)
            await asyncio.wait_for(self._is_full.wait(), MAX_WAIT_SECONDS - MIN_WAIT_SECONDS)
        except TimeoutError:
            pass
        finally:
            self.last_call_at = monotonic()

    def wake(self) -> None:
        """Ends `wait` at once: the engine died, and no more rows will finish."""
        self._has_records.set()
        self._is_full.set()

    def take(self) -> list[tuple[WorkRow, dict[str, Any]]]:
        """Returns the records, and forgets them; where they are large, some stay for the next message."""
        count = characters = 0
        while count < len(self.records) and characters < _MAX_MESSAGE_CHARACTERS:
            characters += characters_in(self.records[count][1])
            count += 1
        records, self.records = self.records[:count], self.records[count:]
        if not self.records:
            self._has_records.clear()
            self._is_full.clear()
        return records


class RenderBarrier:
    """The place where rows of one batch wait for each other, each with its first prompt rendered.

    An engine computes on all cores from its first request on. Prompts that are rendered at the same time would be slow,
    and would reach the engine one by one, in small steps. A slow row holds the others for MAX_WAIT_SECONDS at most, and
    a row that fails holds none.

    Args:
        rows: number of rows in the batch.
    """

    def __init__(self, rows: int) -> None:
        self._missing, self._all_arrived = rows, asyncio.Event()

    async def wait(self) -> None:
        """Waits for the other rows; called once for a row whose first prompt is rendered."""
        self.leave()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_arrived.wait(), MAX_WAIT_SECONDS)

    def leave(self) -> None:
        """Keeps the other rows from waiting for one that has no prompt."""
        self._missing -= 1
        if self._missing == 0:
            self._all_arrived.set()


def full_message_rows(share: int) -> int:
    """Returns the number of finished rows at which a message leaves without waiting for more.

    Args:
        share: number of requests that the job may have in flight.
    """
    return max(int(share * (1 - 1 / OVERSUBSCRIPTION) * _FULL_MESSAGE_SHARE), 1)

"""The one writer of a run: logs finished rows as they come, and commits a shard when its last row is in.

It works in a thread of the driver, so that no commit ever stands between a finished row and the next request.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rows import ACCEPTED, ROW_SCHEMA, STATES, FinishedRows
from schemas.run import Manifest, RunRecord
from services.storage.lease import Lease
from services.storage.output_ids import OutputIds
from services.storage.row_log import RowLog
from services.storage.shard_index import ShardIndex
from services.storage.store import ShardStore
from services.storage.time_spans import pauses_of

# Messages that may wait for the writer; beyond that the coordinator waits, and with it dispatch.
_QUEUE_LENGTH = 1024
# The coordinator's thread and this one share an interpreter.
_REST_PER_WORK = 50
_LONGEST_REST_SECONDS = 0.5


@dataclass
class _OpenShard:
    number: int
    start: int
    end: int
    batches: list[pa.RecordBatch] = field(default_factory=list)
    output_ids: list[np.ndarray] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def add(self, output_ids: list[int], batch: pa.RecordBatch) -> pa.RecordBatch:
        """Keeps the rows that are new, and returns them."""
        fresh = []
        for i, output_id in enumerate(output_ids):
            if output_id not in self.seen:
                self.seen.add(output_id)
                fresh.append(i)
        if len(fresh) < len(output_ids):
            batch = batch.take(pa.array(fresh, pa.int64()))
            output_ids = [output_ids[i] for i in fresh]
        self.output_ids.append(np.array(output_ids, dtype=np.int64))
        self.batches.append(batch)
        return batch

    def table(self) -> pa.Table:
        """All rows, in input order."""
        order = np.argsort(np.concatenate(self.output_ids))
        return pa.Table.from_batches(self.batches, schema=ROW_SCHEMA).take(pa.array(order))


class ShardWriter:
    """Assembles and commits shards.

    Args:
        store: the run folder.
        run: its run.json.
        index: the shards that are durable already, and which new ones are added to; a log that a crash left of one of
            them is removed.
        lease: asked before anything is written whether the run is still this driver's.
        on_rows: called with each batch of rows that is kept; those that `logged_rows` tells are not among them.
        on_commit: called with each shard's manifest once it is durable.
    """

    def __init__(
        self,
        store: ShardStore,
        run: RunRecord,
        index: ShardIndex,
        lease: Lease,
        on_rows: Callable[[pa.RecordBatch], None],
        on_commit: Callable[[Manifest], None],
    ) -> None:
        self._store, self._run, self._index, self._lease = store, run, index, lease
        self._on_rows, self._on_commit = on_rows, on_commit
        self._log = RowLog(store)
        for shard in index.committed.intersection(self._log.shards()):
            self._log.drop(shard)
        self._output_ids = OutputIds(run)
        self._shards: dict[int, _OpenShard] = {}
        self._closing = threading.Event()
        self._queue: queue.Queue[FinishedRows | int | None] = queue.Queue(_QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="shard-writer", daemon=True)
        self.error: Exception | None = None
        """what ended the writer: a full disk, say; nothing that it took after that is kept"""
        self.cpu_seconds = 0.0
        """processor time of the thread, once it ended"""
        self._thread.start()

    def open(self, number: int, start: int, end: int) -> set[int]:
        """Opens a shard, and returns the numbers of its outputs that an earlier process finished and logged.

        To be called before a row of the shard is handed out.
        """
        shard = self._shards[number] = _reopened(self._log, self._output_ids, number, start, end)
        if self._is_full(shard):
            self._queue.put(number)
        return shard.seen

    def put(self, finished: FinishedRows) -> None:
        """Takes finished rows; blocks only where the disk cannot keep up."""
        while self.error is None:
            try:
                return self._queue.put(finished, timeout=1)
            except queue.Full:
                continue

    def close(self) -> None:
        """Commits what is complete, keeps the rest in the log, and ends the thread."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _work(self) -> None:
        try:
            open_ended = True
            while open_ended:
                items = self._waiting()
                began = time.thread_time()
                open_ended = None not in items
                self._keep([item for item in items if isinstance(item, FinishedRows)])
                for number in items:
                    if isinstance(number, int):
                        self._commit(self._shards[number])
                self._rest(time.thread_time() - began)
            self._log.close({shard.number: shard.batches for shard in self._shards.values()})
            self._index.save()
        except Exception as error:  # told to the driver, which stops the job
            self.error = error
            self._keep_what_is_left()
        finally:
            self.cpu_seconds = time.thread_time()

    def _keep_what_is_left(self) -> None:
        """Where logs cannot be appended to, finished rows of open shards are nowhere yet."""
        if not self._store.can_append:
            with contextlib.suppress(Exception):  # what ended the writer may end this too, and has been told
                self._lease.check()
                self._log.close({shard.number: shard.batches for shard in self._shards.values()})

    def _waiting(self) -> list[FinishedRows | int | None]:
        """All that came since the last time: a busy driver pays for writing a batch once in many messages.

        Comes back with nothing after a while, so that rows are synced also where no other follows them.
        """
        items: list[FinishedRows | int | None] = []
        with contextlib.suppress(queue.Empty):
            items.append(self._queue.get(timeout=self._log.sync_if_due()))
            while items[-1] is not None:
                items.append(self._queue.get_nowait())
        return items

    def _rest(self, spent_seconds: float) -> None:
        """Lets rows gather, the longer the more work there is: a hundred shards may be open, and what a row costs falls
        with the number of rows that are logged together. A killed process loses no more than this time's rows.
        """
        if self._queue.qsize() < _QUEUE_LENGTH / 2:
            self._closing.wait(min(_REST_PER_WORK * spent_seconds, _LONGEST_REST_SECONDS))

    def _keep(self, messages: list[FinishedRows]) -> None:
        if not messages:
            return
        self._lease.check()
        output_ids = [output_id for message in messages for output_id in message.output_ids]
        shards = np.array([shard for message in messages for shard in message.shards])
        rows = pa.concat_batches([message.batch for message in messages]) if len(messages) > 1 else messages[0].batch
        kept, full = [], []
        for number in np.unique(shards):
            shard = self._shards.get(int(number))
            if shard is None:
                continue  # committed already: these rows came back from two replicas
            mine = np.flatnonzero(shards == number)
            batch = shard.add(
                [output_ids[i] for i in mine], rows if len(mine) == len(shards) else rows.take(pa.array(mine))
            )
            kept.append(batch)
            self._log.append(shard.number, batch)
            if self._is_full(shard):
                full.append(shard)
        if kept:
            self._on_rows(pa.concat_batches(kept))
        for shard in full:
            self._commit(shard)

    def _is_full(self, shard: _OpenShard) -> bool:
        return len(shard.seen) == (shard.end - shard.start) * self._run.outputs_per_row

    def _commit(self, shard: _OpenShard) -> None:
        table = shard.table()
        self._lease.check()  # shards that were full from the start come here without a row; and commits may be many
        manifest = self._store.commit(_manifest(self._run, shard, table), table)
        self._log.drop(shard.number)
        del self._shards[shard.number]
        self._on_commit(manifest)
        self._index.add(manifest, table)
        self._index.save_if_due()


def logged_rows(store: ShardStore, run: RunRecord, committed: set[int]) -> Iterator[pa.RecordBatch]:
    """The rows that earlier starts finished in shards which are not committed, as a writer finds them."""
    log, output_ids = RowLog(store), OutputIds(run)
    logged = set(log.shards()) - committed
    for number, start, end in run.shard_ranges():
        if number in logged:
            yield from _reopened(log, output_ids, number, start, end).batches


def _reopened(log: RowLog, output_ids: OutputIds, number: int, start: int, end: int) -> _OpenShard:
    """The shard with what the log has of it."""
    shard = _OpenShard(number, start, end)
    for batch in log.recover(number).to_batches():
        found = output_ids.of(batch)
        mine = [start <= output_ids.row_of(output_id) < end for output_id in found]
        shard.add([output_id for output_id, own in zip(found, mine, strict=True) if own], batch.filter(pa.array(mine)))
    return shard


def _manifest(run: RunRecord, shard: _OpenShard, table: pa.Table) -> Manifest:
    counts = {item["values"].as_py(): item["counts"].as_py() for item in pc.value_counts(table["state"])}
    accepted = pc.filter(table["output_tokens"], pc.equal(table["state"], ACCEPTED))
    starts = table["started_at"].cast(pa.int64()).to_numpy() / 1e6
    ends = starts + table["duration_seconds"].to_numpy()
    return Manifest(
        fingerprint=run.fingerprint,
        shard=shard.number,
        start=shard.start,
        end=shard.end,
        samples=run.samples,
        variants=len(run.variant_names),
        counts={state: counts.get(state, 0) for state in STATES},
        siblings={},
        prompt_tokens=pc.sum(table["prompt_tokens"]).as_py(),
        cached_prompt_tokens=pc.sum(table["cached_prompt_tokens"]).as_py(),
        output_tokens=pc.sum(table["output_tokens"]).as_py(),
        accepted_output_tokens=pc.sum(accepted).as_py() or 0,
        started_at=_iso(starts.min()),
        finished_at=_iso(ends.max()),
        pauses=[(_iso(begin), _iso(end)) for begin, end in pauses_of(starts, ends)],
        versions=run.versions,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

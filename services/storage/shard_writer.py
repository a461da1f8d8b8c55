"""The one writer of a run: logs finished rows as they arrive, and commits a shard once its last row is there.

Invariant: a row that the writer has kept is in the row log or in a committed shard, never in neither and never twice:
the log of a shard is dropped only after the shard is durable, and a row that arrives again is ignored. (On object
stores a row reaches the log some seconds later, see object_log.py.)

The writer has a thread of its own in the driver, so that no commit delays the next request to an engine.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.outcomes import Outcomes, by_frequency
from schemas.row_programs import TOKEN_COLUMNS, all_tokens
from schemas.rows import ACCEPTED, STATES, FinishedRows
from schemas.run import Manifest, RunRecord
from services.storage.commit_order import CommitOrder
from services.storage.lease import Lease
from services.storage.open_shard import OpenShard
from services.storage.output_ids import OutputIds
from services.storage.parts import part_number, retry_of, shard_of
from services.storage.row_log import open_row_log
from services.storage.shard_index import ShardIndex
from services.storage.store import ShardStore
from services.storage.time_spans import find_pauses

# Messages that may wait for the writer. If the disk is slower than the engines, the coordinator waits, and so does
# dispatch: memory stays bounded.
_QUEUE_LENGTH = 1024
# The same in bytes, for large rows: of messages that wait, and of messages that are handled together.
_MAX_WAITING_BYTES = 64 << 20
# Bytes of the rows of open shards in memory. Beyond them the largest shards have their rows in the log alone, and are
# read back for their commit.
_MAX_OPEN_BYTES = 256 << 20
# After its work the thread waits this many times as long as the work took. It shares the interpreter lock with the
# coordinator, and rows cost less the more of them are logged together.
_WAIT_PER_WORK = 50
_MAX_WAIT_SECONDS = 0.5
_FULL_QUEUE_SECONDS = 0.02


class ShardWriter:
    """Assembles and commits shards.

    Args:
        store: the run folder.
        run: the run's run.json.
        index: the index of committed shards; new shards are added to it. Logs that a crash left of these shards are
            removed.
        lease: checked before anything is written.
        on_rows: called with each batch of new rows. Rows that earlier starts logged are not among them, see
            `read_logged_rows`.
        on_commit: called with each shard's manifest once the shard is durable.
        on_round: called after each round of messages, and at least every SYNC_SECONDS.
        target: number of accepted rows at which no further shard is committed; None for no target.

    Attributes:
        error: the exception that ended the writer, for instance on a full disk; rows that it received later are lost.
        cpu_seconds: processor time of the thread, once it has ended.
    """

    def __init__(
        self,
        store: ShardStore,
        run: RunRecord,
        index: ShardIndex,
        lease: Lease,
        on_rows: Callable[[pa.RecordBatch], None],
        on_commit: Callable[[Manifest], None],
        on_round: Callable[[], None] = lambda: None,
        target: int | None = None,
    ) -> None:
        self._store, self._run, self._index, self._lease = store, run, index, lease
        self._on_rows, self._on_commit, self._on_round = on_rows, on_commit, on_round
        self._log = open_row_log(store, run.logged_schema)
        last_retry = len(run.retries)
        for part in self._log.shards():
            # Rows of a retry that another one replaced before it was complete are generated again by that one.
            if part in index.committed or retry_of(part) not in (0, last_retry):
                self._log.drop(part)
        self._order = CommitOrder(run, index, target) if target is not None else None
        self._output_ids = OutputIds(run)
        self._shards: dict[int, OpenShard] = {}
        self._closing = threading.Event()
        # Finished rows; the number of a shard that was complete when it was opened; None: close.
        self._queue: queue.Queue[FinishedRows | int | None] = queue.Queue(_QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._work, name="shard-writer", daemon=True)
        self.error: Exception | None = None
        self.cpu_seconds = 0.0
        self._thread.start()

    @property
    def read_rows(self) -> int | None:
        """Number of input rows that the committed shards were made from, once the target is reached; None before."""
        return self._order.read_rows if self._order else None

    def open(self, number: int, start: int, end: int, retried: set[int] | None = None) -> set[int]:
        """Opens a part; must be called before a row of the part is handed out.

        Args:
            number: number of the part.
            start: first input row of its shard.
            end: input row after the last one.
            retried: numbers of its outputs, for a retry; a shard itself has all outputs of its rows.

        Returns:
            Numbers of the shard's outputs that earlier starts finished and logged.
        """
        outputs = (end - start) * self._run.outputs_per_row if retried is None else len(retried)
        shard = OpenShard(number, start, end, outputs, retried)
        shard.restore(self._log, self._output_ids)
        self._shards[number] = shard
        if shard.is_complete:  # a crash came between its last row and its commit
            self._queue.put(number)
        return shard.seen

    def put(self, finished: FinishedRows) -> None:
        """Hands finished rows to the thread; waits only if the disk is slower than the engines."""
        # With a timeout: nobody empties the queue of a thread that an error ended while this waits.
        while self.error is None:
            with self._queue.mutex:
                waiting = [message for message in self._queue.queue if isinstance(message, FinishedRows)]
            if sum(len(message.encoded) for message in waiting) > _MAX_WAITING_BYTES:
                time.sleep(_FULL_QUEUE_SECONDS)
                continue
            try:
                return self._queue.put(finished, timeout=1)
            except queue.Full:
                continue

    def close(self) -> None:
        """Commits the complete shards, keeps other rows in the log, and ends the thread."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _work(self) -> None:
        """Handles messages until the writer is closed; runs in the thread."""
        try:
            is_open = True
            while is_open:
                messages = self._receive()
                began = time.thread_time()
                is_open = None not in messages
                self._keep([message for message in messages if isinstance(message, FinishedRows)])
                self._commit_complete([self._shards[message] for message in messages if isinstance(message, int)])
                self._on_round()
                self._wait_for_more_rows(time.thread_time() - began)
            self._log.close()
            self._index.save()
        except Exception as error:  # the driver reads it, and stops the job
            self.error = error
            self._save_open_shards_after_error()
        finally:
            self.cpu_seconds = time.thread_time()

    def _receive(self) -> list[FinishedRows | int | None]:
        """Takes the waiting messages, up to a number of bytes: rows of many messages are logged in one write.

        Returns an empty list after a while, so that logged rows are synced even if no other row follows.
        """
        messages: list[FinishedRows | int | None] = []
        with contextlib.suppress(queue.Empty):
            messages.append(self._queue.get(timeout=self._log.sync_if_due()))
            size = 0
            while (last := messages[-1]) is not None and size < _MAX_WAITING_BYTES:
                size += len(last.encoded) if isinstance(last, FinishedRows) else 0
                messages.append(self._queue.get_nowait())
        return messages

    def _wait_for_more_rows(self, work_seconds: float) -> None:
        """Lets rows gather in the queue.

        A hundred shards may be open, each with its log, and each write costs the same for one row as for many. A killed
        process loses only the rows of this wait.
        """
        if self._queue.qsize() < _QUEUE_LENGTH / 2:
            self._closing.wait(min(_WAIT_PER_WORK * work_seconds, _MAX_WAIT_SECONDS))

    def _keep(self, messages: list[FinishedRows]) -> None:
        """Logs the rows that are new, and commits the shards that are complete with them."""
        if not messages:
            return
        self._lease.check()
        output_ids = [output_id for message in messages for output_id in message.output_ids]
        shards = np.array([shard for message in messages for shard in message.shards])
        rows = pa.concat_batches([message.batch for message in messages]) if len(messages) > 1 else messages[0].batch
        kept, complete = [], []
        for number in np.unique(shards):
            shard = self._shards.get(int(number))
            if shard is None:
                continue  # committed already: these rows came from two replicas
            of_shard = np.flatnonzero(shards == number)
            batch = rows if len(of_shard) == len(shards) else rows.take(pa.array(of_shard))
            batch = shard.add([output_ids[i] for i in of_shard], batch)
            kept.append(batch)
            self._log.append(shard.number, batch)  # before `on_rows`: a row that is counted is on disk
            if shard.is_complete:
                complete.append(shard)
        if kept:
            self._on_rows(pa.concat_batches(kept))
        self._commit_complete(complete)
        self._forget_rows_in_log()

    def _commit_complete(self, shards: list[OpenShard]) -> None:
        for shard in self._order.ready(shards) if self._order else shards:
            self._commit(shard)

    def _forget_rows_in_log(self) -> None:
        """Keeps the rows of open shards in memory up to _MAX_OPEN_BYTES, where the log has all of them."""
        shards = list(self._shards.values())  # the coordinator opens others meanwhile
        size = sum(shard.bytes_in_memory for shard in shards)
        if size > _MAX_OPEN_BYTES and self._store.can_append:
            for shard in sorted(shards, key=lambda shard: shard.bytes_in_memory, reverse=True):
                if size <= _MAX_OPEN_BYTES / 2:
                    return
                size -= shard.bytes_in_memory
                shard.forget_rows()

    def _commit(self, shard: OpenShard) -> None:
        table = shard.take_table(self._log, self._output_ids)
        # Checked here too: a shard that was complete when it was opened arrives without a row, and `_keep` may commit
        # many shards after its own check.
        self._lease.check()
        manifest = self._store.commit(_manifest(self._run, shard, table), table)
        self._log.drop(shard.number)  # only now: the rows are durable in the shard
        del self._shards[shard.number]
        self._on_commit(manifest)
        self._index.add(manifest)
        if self._order:
            self._order.add(manifest)
        self._index.save_if_due()

    def _save_open_shards_after_error(self) -> None:
        """Writes the rows that wait for the next object of the log; a local log has them already."""
        if not self._store.can_append:
            with contextlib.suppress(Exception):  # the same fault may stop this too, and is in `error` already
                self._lease.check()
                self._log.close()


def read_logged_rows(store: ShardStore, run: RunRecord, committed: set[int]) -> Iterator[pa.RecordBatch]:
    """Reads the rows that earlier starts finished in uncommitted shards, as the writer restores them.

    Args:
        committed: numbers of the committed shards.
    """
    log, output_ids = open_row_log(store, run.logged_schema), OutputIds(run)
    logged = set(log.shards()) - committed
    for number, start, end in run.shard_ranges():
        for part in {number, part_number(number, len(run.retries))} & logged:
            shard = OpenShard(part, start, end, outputs=0)
            shard.restore(log, output_ids)
            yield from shard.batches


def _manifest(run: RunRecord, shard: OpenShard, table: pa.Table) -> Manifest:
    outcomes = Outcomes.of(table)
    accepted = pc.filter(table["output_tokens"], pc.equal(table["state"], ACCEPTED))
    starts = table["started_at"].cast(pa.int64()).to_numpy() / 1e6
    ends = starts + table["duration_seconds"].to_numpy()
    return Manifest(
        fingerprint=run.fingerprint,
        shard=shard_of(shard.number),
        retry=retry_of(shard.number),
        retried=run.retries[-1].state if retry_of(shard.number) else "",
        start=shard.start,
        end=shard.end,
        samples=run.samples,
        variants=len(run.variant_names),
        counts={state: outcomes.counts[state] for state in STATES},
        cut_off=outcomes.cut_off,
        rejects=by_frequency(outcomes.rejects),
        errors=by_frequency(outcomes.errors),
        siblings={},
        tries=by_frequency(outcomes.tries),
        **{column: all_tokens(table, column) for column in TOKEN_COLUMNS},
        accepted_output_tokens=pc.sum(accepted).as_py() or 0,
        started_at=_iso(starts.min()),
        finished_at=_iso(ends.max()),
        pauses=[(_iso(begin), _iso(end)) for begin, end in find_pauses(starts, ends)],
        versions=run.versions,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

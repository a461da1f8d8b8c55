"""Finished rows of shards that are still open, kept on disk so that a crash does not lose them.

One file a shard, `log/part-00003.arrows`, that the one writer appends to: Arrow IPC record batches of ROW_SCHEMA, each
behind its length and checksum. A crash can tear the last one, and a power cut can leave zeros in its place; what lies
before that is read back. Only local file systems can append: elsewhere the logs are written once, whole, at a stop that
was asked for, and a crash loses the finished rows of the open shards.
"""

import os
import struct
import time
import zlib
from io import FileIO
from pathlib import Path

import pyarrow as pa

from schemas.rows import ROW_SCHEMA
from services.storage.failpoints import failpoint
from services.storage.filesystem import LEFTOVER_SUFFIX, make_folder, sync_folder, write_all, write_atomic
from services.storage.store import ShardStore

# A killed process loses nothing that was written; this bounds what a machine that dies can lose.
SYNC_SECONDS = 5.0

_HEADER = struct.Struct("<II")  # bytes of the batch, their CRC-32


class RowLog:
    """Appends batches of ROW_SCHEMA, by shard.

    Args:
        store: the run folder; the logs lie in its folder `log`, which is listed here once.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        names = (name for name in store.names("log") if name.startswith("part-") and name.endswith(".arrows"))
        self._there = {int(name.removeprefix("part-").removesuffix(".arrows")) for name in names}
        self._open: dict[int, FileIO] = {}
        self._unsynced: set[int] = set()
        self._synced_at = time.monotonic()

    def recover(self, shard: int) -> pa.Table:
        """The rows that an earlier process logged for a shard, up to a damaged end; maybe none."""
        try:
            raw = self._store.fs.cat_file(self._store.path(_log_path(shard))) if shard in self._there else b""
        except FileNotFoundError:  # its driver committed the shard a moment ago
            raw = b""
        return pa.Table.from_batches(_whole_batches(raw), schema=ROW_SCHEMA)

    def shards(self) -> list[int]:
        """Numbers of the shards that have a log."""
        return sorted(self._there)

    def append(self, shard: int, batch: pa.RecordBatch) -> None:
        """Writes the rows to the operating system: they survive the death of this process at once.

        Does nothing on a file system that cannot append.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        if not self._store.can_append:
            return
        if shard not in self._open:
            self._open[shard] = self._start(shard)
        _write(self._open[shard], batch)
        self._unsynced.add(shard)
        failpoint("log.appended")

    def sync_if_due(self) -> float:
        """Syncs every SYNC_SECONDS; the seconds after which it wants to be called again, also while no row comes."""
        left = self._synced_at + SYNC_SECONDS - time.monotonic()
        if left > 0:
            return left
        self._sync()
        return SYNC_SECONDS

    def _sync(self) -> None:
        """Makes what was appended survive the death of the machine."""
        for shard in self._unsynced:
            os.fsync(self._open[shard].fileno())
        self._unsynced.clear()
        self._synced_at = time.monotonic()

    def drop(self, shard: int) -> None:
        """Removes a shard's log; called once the shard itself is durable."""
        if file := self._open.pop(shard, None):
            file.close()
            self._unsynced.discard(shard)
        if shard in self._there:
            self._store.remove(_log_path(shard))
            self._there.discard(shard)
        failpoint("commit.dropped")

    def close(self, left: dict[int, list[pa.RecordBatch]]) -> None:
        """Syncs and closes; the logs of open shards stay for the next run.

        Args:
            left: all rows of each open shard; written here where they could not be appended.
        """
        self._sync()
        for file in self._open.values():
            file.close()
        self._open.clear()
        if not self._store.can_append:
            for shard, batches in left.items():
                if any(batch.num_rows for batch in batches):
                    whole = b"".join(_record(batch) for batch in batches)
                    write_atomic(self._store.fs, self._store.path(_log_path(shard)), whole)

    def _start(self, shard: int) -> FileIO:
        """Starts the shard's log anew under a temporary name, with what an earlier process left in it."""
        path = Path(self._store.path(_log_path(shard)))
        make_folder(str(path.parent))
        temporary = path.with_name(f".{path.name}{LEFTOVER_SUFFIX}")
        file = temporary.open("wb", buffering=0)
        for batch in self.recover(shard).to_batches():
            _write(file, batch)
        os.fsync(file.fileno())
        failpoint("log.started")
        temporary.rename(path)
        sync_folder(str(path.parent))
        self._there.add(shard)
        return file


def _log_path(shard: int) -> str:
    return f"log/part-{shard:05d}.arrows"


def _record(batch: pa.RecordBatch) -> bytes:
    payload = batch.serialize().to_pybytes()
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _write(file: FileIO, batch: pa.RecordBatch) -> None:
    record = memoryview(_record(batch))
    write_all(file, record[: len(record) // 2])
    failpoint("log.half")
    write_all(file, record[len(record) // 2 :])


def _whole_batches(raw: bytes) -> list[pa.RecordBatch]:
    batches, at = [], 0
    while at + _HEADER.size <= len(raw):
        length, checksum = _HEADER.unpack_from(raw, at)
        payload = raw[at + _HEADER.size : at + _HEADER.size + length]
        if not length or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(payload), ROW_SCHEMA)
            batch.validate(full=True)  # whoever can write a log can write its checksum
        except pa.ArrowException:
            break
        batches.append(batch)
        at += _HEADER.size + length
    return batches

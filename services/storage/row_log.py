"""The row log: finished rows of shards that are still open, kept on disk so that a crash does not lose them.

Invariant: a log is read back up to its first damaged record, and every record before that is complete: each is checked
by its length and its checksum.

Each open shard has one file, `log/part-00003.arrows`, to which the one writer appends. A record is an Arrow IPC record
batch of ROW_SCHEMA after its length and checksum. A crash can tear the last record, and a power cut can leave zeros in
its place. Only local file systems can append. Elsewhere the logs are written once, when the job stops on request, and a
crash loses the finished rows of the open shards.
"""

import contextlib
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

# Rows of at most this time are lost if the machine dies. If only the process dies, none are.
SYNC_SECONDS = 5.0

_HEADER = struct.Struct("<II")  # bytes of the batch, and their CRC-32


class RowLog:
    """Appends batches of ROW_SCHEMA, by shard.

    Args:
        store: the run folder. Its folder `log` is listed once, here.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        names = (name for name in store.list_names("log") if name.startswith("part-") and name.endswith(".arrows"))
        self._logged_shards = {int(name.removeprefix("part-").removesuffix(".arrows")) for name in names}
        self._files: dict[int, FileIO] = {}
        self._unsynced: set[int] = set()
        self._synced_at = time.monotonic()

    def recover(self, shard: int) -> pa.Table:
        """Reads the rows that earlier starts logged for a shard, up to a damaged record; possibly none."""
        raw = b""
        if shard in self._logged_shards:
            # `status` reads while a driver runs, which may have committed the shard since the folder was listed.
            with contextlib.suppress(FileNotFoundError):
                raw = self._store.fs.cat_file(self._store.path(_log_path(shard)))
        return pa.Table.from_batches(_intact_batches(raw), schema=ROW_SCHEMA)

    def shards(self) -> list[int]:
        """Numbers of the shards that have a log."""
        return sorted(self._logged_shards)

    def append(self, shard: int, batch: pa.RecordBatch) -> None:
        """Hands rows to the operating system: from now on they survive the death of this process.

        Does nothing on a file system that cannot append.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        if not self._store.can_append:
            return
        if shard not in self._files:  # a shard gets a file only with its first row: hundreds may be open
            self._files[shard] = self._start_file(shard)
        _write_record(self._files[shard], batch)
        self._unsynced.add(shard)
        failpoint("log.appended")

    def sync_if_due(self) -> float:
        """Syncs once every SYNC_SECONDS.

        Returns:
            seconds until it must be called again, even if no row arrives.
        """
        seconds_left = self._synced_at + SYNC_SECONDS - time.monotonic()
        if seconds_left > 0:
            return seconds_left
        self._sync()
        return SYNC_SECONDS

    def _sync(self) -> None:
        """Makes the appended rows survive the death of the machine."""
        for shard in self._unsynced:
            os.fsync(self._files[shard].fileno())
        self._unsynced.clear()
        self._synced_at = time.monotonic()

    def drop(self, shard: int) -> None:
        """Removes the log of a shard; must be called only after the shard itself is durable."""
        if file := self._files.pop(shard, None):
            file.close()
            self._unsynced.discard(shard)
        if shard in self._logged_shards:
            self._store.remove(_log_path(shard))
            self._logged_shards.discard(shard)
        failpoint("commit.dropped")

    def close(self, open_shards: dict[int, list[pa.RecordBatch]]) -> None:
        """Syncs and closes the logs; those of open shards stay for the next start.

        Args:
            open_shards: all finished rows of each open shard; written here where they could not be appended.
        """
        self._sync()
        for file in self._files.values():
            file.close()
        self._files.clear()
        if not self._store.can_append:
            for shard, batches in open_shards.items():
                if any(batch.num_rows for batch in batches):
                    records = b"".join(_encode_record(batch) for batch in batches)
                    write_atomic(self._store.fs, self._store.path(_log_path(shard)), records)

    def _start_file(self, shard: int) -> FileIO:
        """Starts a shard's log with the rows that earlier starts logged.

        The old file is not appended to: behind a torn record nothing would be read back. It is replaced only when the
        new file holds all of its rows.
        """
        path = Path(self._store.path(_log_path(shard)))
        make_folder(str(path.parent))
        temporary = path.with_name(f".{path.name}{LEFTOVER_SUFFIX}")
        file = temporary.open("wb", buffering=0)  # unbuffered: Python's own buffer would die with the process
        for batch in self.recover(shard).to_batches():
            _write_record(file, batch)
        os.fsync(file.fileno())
        failpoint("log.started")
        temporary.rename(path)
        sync_folder(str(path.parent))
        self._logged_shards.add(shard)
        return file


def _log_path(shard: int) -> str:
    return f"log/part-{shard:05d}.arrows"


def _encode_record(batch: pa.RecordBatch) -> bytes:
    payload = batch.serialize().to_pybytes()
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _write_record(file: FileIO, batch: pa.RecordBatch) -> None:
    record = memoryview(_encode_record(batch))
    write_all(file, record[: len(record) // 2])
    failpoint("log.half")
    write_all(file, record[len(record) // 2 :])


def _intact_batches(raw: bytes) -> list[pa.RecordBatch]:
    """Decodes the records of a log up to the first damaged one."""
    batches, offset = [], 0
    while offset + _HEADER.size <= len(raw):
        length, checksum = _HEADER.unpack_from(raw, offset)
        payload = raw[offset + _HEADER.size : offset + _HEADER.size + length]
        # A length of 0 is a header of zeros, whose checksum would be right: the CRC-32 of nothing is 0.
        if not length or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(payload), ROW_SCHEMA)
            # A right checksum does not make the content safe: a person who can write a log can write its checksum, and
            # Arrow would read outside of its buffers.
            batch.validate(full=True)
        except pa.ArrowException:
            break
        batches.append(batch)
        offset += _HEADER.size + length
    return batches

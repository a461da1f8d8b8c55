"""Finished rows of shards that are still open, kept on disk so that a crash does not lose them.

One file a shard, `log/part-00003.arrows`, that the one writer appends to: Arrow IPC record batches of ROW_SCHEMA, each
behind its length and checksum. A crash can tear the last one, and a power cut can leave zeros in its place; what lies
before that is read back. Only local file systems can append: elsewhere there is no log, and a crash loses at most the
finished rows of the open shards.
"""

import os
import struct
import time
import zlib
from io import FileIO
from pathlib import Path

import pyarrow as pa

from schemas.rows import ROW_SCHEMA
from services.filesystem import sync_folder

# A killed process loses nothing that was written; this bounds what a machine that dies can lose.
SYNC_SECONDS = 5.0

_HEADER = struct.Struct("<II")  # bytes of the batch, their CRC-32


class RowLog:
    """Appends batches of ROW_SCHEMA, by shard.

    Args:
        folder: the local folder of the logs.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._open: dict[int, FileIO] = {}
        self._synced_at = time.monotonic()

    def recover(self, shard: int) -> pa.Table:
        """The rows that an earlier process logged for a shard, up to a damaged end; maybe none."""
        try:
            raw = self._path(shard).read_bytes()
        except FileNotFoundError:
            raw = b""
        return pa.Table.from_batches(_whole_batches(raw), schema=ROW_SCHEMA)

    def shards(self) -> list[int]:
        """Numbers of the shards that have a log."""
        return sorted(int(path.stem.removeprefix("part-")) for path in self._folder.glob("part-*.arrows"))

    def append(self, shard: int, batch: pa.RecordBatch) -> None:
        """Writes the rows to the operating system: they survive the death of this process at once.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        if shard not in self._open:
            self._open[shard] = self._start(shard)
        _write(self._open[shard], batch)
        if time.monotonic() - self._synced_at > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Makes what was appended survive the death of the machine."""
        for file in self._open.values():
            os.fsync(file.fileno())
        self._synced_at = time.monotonic()

    def drop(self, shard: int) -> None:
        """Removes a shard's log; called once the shard itself is durable."""
        if file := self._open.pop(shard, None):
            file.close()
        self._path(shard).unlink(missing_ok=True)

    def close(self) -> None:
        """Syncs and closes; the logs of open shards stay for the next run."""
        self.sync()
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _path(self, shard: int) -> Path:
        return self._folder / f"part-{shard:05d}.arrows"

    def _start(self, shard: int) -> FileIO:
        """Starts the shard's log anew under a temporary name, with what an earlier process left in it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        temporary = path.with_suffix(".tmp")
        file = temporary.open("wb", buffering=0)
        for batch in self.recover(shard).to_batches():
            _write(file, batch)
        os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(str(self._folder))
        return file


def _write(file: FileIO, batch: pa.RecordBatch) -> None:
    payload = batch.serialize().to_pybytes()
    left = memoryview(_HEADER.pack(len(payload), zlib.crc32(payload)) + payload)
    while left:  # a full disk may take a part before it refuses the rest
        left = left[file.write(left) :]


def _whole_batches(raw: bytes) -> list[pa.RecordBatch]:
    batches, at = [], 0
    while at + _HEADER.size <= len(raw):
        length, checksum = _HEADER.unpack_from(raw, at)
        payload = raw[at + _HEADER.size : at + _HEADER.size + length]
        if not length or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        batches.append(pa.ipc.read_record_batch(pa.py_buffer(payload), ROW_SCHEMA))
        at += _HEADER.size + length
    return batches

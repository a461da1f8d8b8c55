"""The row log: finished rows of shards that are still open, kept so that a crash does not lose them.

Invariant: a log is read back up to its first damaged record, and every record before that is complete: each is checked
by its length and its checksum.

On a local file system each open shard has one file, `log/part-00003.arrows`, to which the one writer appends. A crash
can tear the last record, and a power cut can leave zeros in its place. On object stores see object_log.py.
"""

import contextlib
import os
import time
from io import FileIO
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from schemas.rows import ROW_SCHEMA
from services.storage.failpoints import failpoint
from services.storage.filesystem import LEFTOVER_SUFFIX, make_folder, sync_folder, write_all
from services.storage.log_records import decode_records, encode_record
from services.storage.object_log import ObjectLog
from services.storage.parts import parse_part, part_name
from services.storage.store import ShardStore

# Rows of at most this time are lost if the machine dies. If only the process dies, none are.
SYNC_SECONDS = 5.0
# Hundreds of shards may be open, and a process may have 1,024 files: those written last stay open.
_MAX_OPEN_FILES = 128


class RowLog(Protocol):
    """Log of finished rows, by shard."""

    def recover(self, shard: int) -> pa.Table:
        """Reads the rows that earlier starts logged for a shard, once."""
        ...

    def shards(self) -> list[int]:
        """Numbers of the shards that have rows in the log."""
        ...

    def append(self, shard: int, batch: pa.RecordBatch) -> None:
        """Logs rows.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        ...

    def sync_if_due(self) -> float:
        """Makes the logged rows durable, if it is time for it.

        Returns:
            seconds until it must be called again, even if no row arrives.
        """
        ...

    def drop(self, shard: int) -> None:
        """Removes the rows of a shard; must be called only after the shard itself is durable."""
        ...

    def close(self) -> None:
        """Makes all logged rows durable; those of open shards stay for the next start."""
        ...


def open_row_log(store: ShardStore, schema: pa.Schema = ROW_SCHEMA) -> RowLog:
    """Opens the row log of a run folder.

    Args:
        store: the run folder.
        schema: columns of the logged rows, `RunRecord.logged_schema`. A reader may take the first ones of them alone.
    """
    return FileLog(store, schema) if store.can_append else ObjectLog(store, schema)


class FileLog:
    """Appends batches of rows to local files, one for each shard; see `RowLog`.

    Args:
        store: the run folder. Its folder `log` is listed once, here.
        schema: columns of the rows.
    """

    def __init__(self, store: ShardStore, schema: pa.Schema = ROW_SCHEMA) -> None:
        self._store, self._schema = store, schema
        parts = (parse_part(name, ".arrows") for name in store.list_names("log"))
        self._logged_shards = {part for part in parts if part is not None}
        # In the order of their last record.
        self._files: dict[int, FileIO] = {}
        self._started_shards: set[int] = set()
        self._unsynced: set[int] = set()
        self._synced_at = time.monotonic()

    def recover(self, shard: int) -> pa.Table:
        """Reads the rows that earlier starts logged for a shard, up to a damaged record; possibly none."""
        raw = memoryview(b"")
        if shard in self._logged_shards:
            # `status` reads while a driver runs, which may have committed the shard since the folder was listed.
            # A view, so that the records are no copies: a log may be as large as its shard.
            with contextlib.suppress(FileNotFoundError):
                raw = memoryview(self._store.fs.cat_file(self._path(shard)))
        records = decode_records(raw, shard, self._schema)
        return pa.Table.from_batches([batch for _, batch in records], schema=self._schema)

    def shards(self) -> list[int]:
        """Numbers of the shards that have a log."""
        return sorted(self._logged_shards)

    def append(self, shard: int, batch: pa.RecordBatch) -> None:
        """Hands rows to the operating system: from now on they survive the death of this process.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        file = self._files.pop(shard, None) or self._open_file(shard)
        self._files[shard] = file
        _write_record(file, batch)
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
            if shard in self._files:
                os.fsync(self._files[shard].fileno())
            else:  # closed since then; its rows are synced by any descriptor
                with open(self._path(shard), "rb") as file:
                    os.fsync(file.fileno())
        self._unsynced.clear()
        self._synced_at = time.monotonic()

    def drop(self, shard: int) -> None:
        """Removes the log of a shard; must be called only after the shard itself is durable."""
        if file := self._files.pop(shard, None):
            file.close()
        self._unsynced.discard(shard)
        self._started_shards.discard(shard)
        if shard in self._logged_shards:
            self._store.remove(_log_path(shard))
            self._logged_shards.discard(shard)
        failpoint("commit.dropped")

    def close(self) -> None:
        """Syncs and closes the logs; those of open shards stay for the next start."""
        self._sync()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, shard: int) -> str:
        return self._store.path(_log_path(shard))

    def _open_file(self, shard: int) -> FileIO:
        """Opens the log of a shard that has none open; a shard gets a file only with its first row."""
        if len(self._files) >= _MAX_OPEN_FILES:
            self._files.pop(next(iter(self._files))).close()
        if shard in self._started_shards:
            return open(self._path(shard), "ab", buffering=0)
        file = self._start_file(shard)
        self._started_shards.add(shard)
        return file

    def _start_file(self, shard: int) -> FileIO:
        """Starts a shard's log with the rows that earlier starts logged.

        The old file is not appended to: behind a torn record nothing would be read back. It is replaced only when the
        new file holds all of its rows.
        """
        path = Path(self._path(shard))
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
    return f"log/{part_name(shard)}.arrows"


def _write_record(file: FileIO, batch: pa.RecordBatch) -> None:
    record = memoryview(encode_record(batch))
    write_all(file, record[: len(record) // 2])
    failpoint("log.half")
    write_all(file, record[len(record) // 2 :])

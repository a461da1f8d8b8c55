"""Finished rows of shards that are still open, kept on disk so that a crash does not lose them.

One file a shard, `log/part-00003.arrows`: an Arrow IPC stream that the one writer appends to. A crash can tear its last
message; what lies before that is read back. Only local file systems can append: elsewhere there is no log, and a crash
loses at most the finished rows of the open shards.
"""

import os
import time
from pathlib import Path

import pyarrow as pa

from schemas.rows import ROW_SCHEMA
from services.filesystem import sync_folder

# A killed process loses nothing that was written; this bounds what a machine that dies can lose.
SYNC_SECONDS = 5.0


class RowLog:
    """Appends batches of ROW_SCHEMA, by shard.

    Args:
        folder: the local folder of the logs.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._open: dict[int, tuple[pa.OSFile, pa.RecordBatchStreamWriter]] = {}
        self._synced_at = time.monotonic()

    def recover(self, shard: int) -> pa.Table:
        """The rows that an earlier process logged for a shard, up to a torn end; maybe none."""
        try:
            with pa.OSFile(str(self._path(shard)), "rb") as file:
                return _read_whole_messages(file)
        except FileNotFoundError:
            return ROW_SCHEMA.empty_table()

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
        file, writer = self._open[shard]
        writer.write_batch(batch)
        file.flush()
        if time.monotonic() - self._synced_at > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Makes what was appended survive the death of the machine."""
        for file, _ in self._open.values():
            os.fsync(file.fileno())
        self._synced_at = time.monotonic()

    def drop(self, shard: int) -> None:
        """Removes a shard's log; called once the shard itself is durable."""
        if opened := self._open.pop(shard, None):
            opened[0].close()
        self._path(shard).unlink(missing_ok=True)

    def close(self) -> None:
        """Syncs and closes; the logs of open shards stay for the next run."""
        self.sync()
        for file, _ in self._open.values():
            file.close()
        self._open.clear()

    def _path(self, shard: int) -> Path:
        return self._folder / f"part-{shard:05d}.arrows"

    def _start(self, shard: int) -> tuple[pa.OSFile, pa.RecordBatchStreamWriter]:
        """Starts the shard's log anew under a temporary name, with what an earlier process left in it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(shard)
        temporary = path.with_suffix(".tmp")
        recovered = self.recover(shard)
        file = pa.OSFile(str(temporary), "wb")
        writer = pa.ipc.new_stream(file, ROW_SCHEMA)
        writer.write_table(recovered)
        file.flush()
        os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(str(self._folder))
        return file, writer


def _read_whole_messages(file: pa.NativeFile) -> pa.Table:
    batches = []
    try:
        with pa.ipc.open_stream(file) as stream:
            for batch in stream:
                batch.validate(full=True)
                batches.append(batch)
    except (pa.ArrowInvalid, OSError):
        pass  # a torn end: what came before it is whole
    return pa.Table.from_batches(batches, schema=ROW_SCHEMA)

"""The row log on an object store, where nothing can be appended to: small objects that never change.

Invariant: an object is removed only after every shard that has rows in it is durable.

Every few seconds the new rows of all open shards go into one object, `log/rows-5d1e0c7a-000001.arrows`. So a kill costs
the rows of these seconds, at the price of one request, however many shards are open. The first part of the name is the
driver's own: two drivers never write the same object.
"""

import re
import secrets
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from schemas.rows import ROW_SCHEMA
from services.storage.failpoints import failpoint
from services.storage.filesystem import write_atomic
from services.storage.log_records import decode_records, encode_record
from services.storage.remote import read_object
from services.storage.store import ShardStore

FLUSH_SECONDS = 5.0
# Version 0.2.0 wrote one object for each open shard when the job stopped.
_NAME = re.compile(r"(?:rows-[0-9a-f]{8}-\d{6,}|part-(?P<shard>\d{5,}))\.arrows")
_THREADS = 16  # each object is a round trip


class ObjectLog:
    """Writes batches of rows, by shard, every FLUSH_SECONDS; see `row_log.RowLog`.

    Args:
        store: the run folder. Its folder `log` is listed and read once.
        schema: columns of the rows.
    """

    def __init__(self, store: ShardStore, schema: pa.Schema = ROW_SCHEMA) -> None:
        self._store, self._schema = store, schema
        self._driver, self._number = secrets.token_hex(4), 0
        self._waiting: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._flushed_at = time.monotonic()
        self._recovered: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        # Objects with rows of a shard, and the shards of an object that are not durable yet.
        self._objects: dict[int, list[str]] = defaultdict(list)
        self._open_shards: dict[str, set[int]] = {}
        self._read_objects()

    def recover(self, shard: int) -> pa.Table:
        """Hands over the rows that earlier starts logged for a shard; possibly none."""
        return pa.Table.from_batches(self._recovered.pop(shard, []), schema=self._schema)

    def shards(self) -> list[int]:
        """Numbers of the shards that have rows in the log."""
        return sorted(self._objects)

    def append(self, shard: int, batch: pa.RecordBatch) -> None:
        """Keeps rows for the next object."""
        self._waiting[shard].append(batch)

    def sync_if_due(self) -> float:
        """Writes the waiting rows once every FLUSH_SECONDS; see `RowLog.sync_if_due`.

        Raises:
            OSError: the store fails; the rows wait on.
        """
        seconds_left = self._flushed_at + FLUSH_SECONDS - time.monotonic()
        if seconds_left > 0:
            return seconds_left
        self._flush()
        return FLUSH_SECONDS

    def drop(self, shard: int) -> None:
        """Removes the rows of a shard; must be called only after the shard itself is durable."""
        self._waiting.pop(shard, None)
        for path in self._objects.pop(shard, []):
            self._open_shards[path].discard(shard)
            if not self._open_shards[path]:
                del self._open_shards[path]
                self._store.remove(path)
        failpoint("commit.dropped")

    def close(self) -> None:
        """Writes the waiting rows.

        Raises:
            OSError: the store fails.
        """
        self._flush()

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        if not self._waiting:
            return
        self._number += 1
        path = f"log/rows-{self._driver}-{self._number:06d}.arrows"
        # One record for each shard: a record of one row is mostly Arrow's description of its columns.
        records = [encode_record(pa.concat_batches(batches), shard) for shard, batches in self._waiting.items()]
        write_atomic(self._store.fs, self._store.path(path), b"".join(records))
        self._add(path, set(self._waiting))
        self._waiting.clear()
        failpoint("log.appended")

    def _add(self, path: str, shards: set[int]) -> None:
        self._open_shards[path] = shards
        for shard in shards:
            self._objects[shard].append(path)

    def _read_objects(self) -> None:
        """Reads all objects; one that another driver removed since the listing had no row of an open shard."""
        names = [match for match in map(_NAME.fullmatch, self._store.list_names("log")) if match]
        paths = [f"log/{match[0]}" for match in names]
        with ThreadPoolExecutor(_THREADS) as threads:
            contents = threads.map(lambda path: read_object(self._store.fs, self._store.path(path)), paths)
            for match, path, content in zip(names, paths, contents, strict=True):
                if content is None:
                    continue
                records = decode_records(content, int(match["shard"]) if match["shard"] else None, self._schema)
                for shard, batch in records:
                    self._recovered[shard].append(batch)
                self._add(path, {shard for shard, _ in records})

"""Reads a run at random moments while it is written and its writers are killed, as a hostile reader would.

What it sees is held against two promises. A file that a glob finds in `data/` is a whole shard, from the first moment
on and for ever. And a row that is on disk once, in a shard or in the log, stays there as it is, and no engine is asked
for it again.
"""

import hashlib
import random
import struct
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipelines.benchmarks.chaos.check import (
    COLUMNS,
    UNREADABLE,
    Identity,
    Specification,
    identity_of,
    read_rows,
    sibling_faults,
)
from schemas.rows import ROW_SCHEMA

# Between two looks, at most.
_LONGEST_PAUSE_SECONDS = 1.0

Rows = dict[Identity, str]
"""texts"""


class Watcher:
    """Inside its block a thread looks at the run now and then; `look` does so at once.

    Args:
        run: the run folder; need not be there yet.
        draw: when to look.

    Attributes:
        torn: shards that were seen and were not whole, or changed later.
        forgotten: rows that were seen and were not there later, or not with the same text.
        seen: text of each row that was seen, and when that was (seconds since 1970).
        grew_at: when rows were last seen to be more than before, on the monotonic clock.
    """

    def __init__(self, run: Path, specification: Specification, draw: random.Random) -> None:
        self.run = run
        self._shards, self._draw = specification.shards, draw
        self._committed: dict[str, tuple[bytes, Rows]] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self.torn: list[str] = []
        self.forgotten: list[str] = []
        self.seen: dict[Identity, tuple[str, float]] = {}
        self.looks = 0
        self.grew_at = time.monotonic()

    def __enter__(self) -> "Watcher":
        self._watching = self._threads.submit(self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._threads.shutdown()
        if error is None:
            self._watching.result()

    def look(self) -> int:
        """Reads all there is; returns how many rows that were."""
        with self._lock:
            # The logs first: what moves from there into a shard meanwhile is then found in that shard.
            rows = read_logs(self.run / "log")
            rows.update(self._read_shards())
            self._compare(rows)
            self.looks += 1
            return len(rows)

    def _watch(self) -> None:
        while not self._ended.wait(self._draw.uniform(0, _LONGEST_PAUSE_SECONDS)):
            self.look()

    def _read_shards(self) -> Rows:
        there = {path.name: path.read_bytes() for path in (self.run / "data").glob("*.parquet")}
        for name in self._committed.keys() - there.keys():
            self.torn.append(f"data/{name}: it was there and is gone")
            del self._committed[name]
        for name, raw in there.items():
            known, digest = self._committed.get(name), hashlib.sha256(raw).digest()
            if known and known[0] == digest:
                continue
            rows: Rows = {}
            try:
                if known:
                    raise ValueError("its content changed after it was committed")
                rows = self._read_shard(name, raw)
            except UNREADABLE as error:
                self.torn.append(f"data/{name}: {error}")
            self._committed[name] = digest, rows
        return {identity: text for _, rows in self._committed.values() for identity, text in rows.items()}

    def _read_shard(self, name: str, raw: bytes) -> Rows:
        """The rows of a shard with its siblings; all that it must have, and no others."""
        rows, siblings = read_rows(raw)
        if faults := list(sibling_faults(self.run, siblings)):
            raise ValueError("; ".join(faults))
        for sibling in siblings:
            rows += read_rows((self.run / sibling).read_bytes())[0]
        number = int(name.removeprefix("part-").removesuffix(".parquet"))
        found, wanted = Counter(map(identity_of, rows)), Counter(self._shards[number])
        if found != wanted:
            raise ValueError(f"{(wanted - found).total()} rows are missing and {(found - wanted).total()} are too many")
        return _texts(rows)

    def _compare(self, rows: Rows) -> None:
        for identity, (text, _) in list(self.seen.items()):
            if rows.get(identity) != text:
                self.forgotten.append(f"{identity}: {'not the same text' if identity in rows else 'gone'}")
                del self.seen[identity]
        now = time.time()
        for identity in rows.keys() - self.seen.keys():
            self.seen[identity] = rows[identity], now
            self.grew_at = time.monotonic()


def read_logs(folder: Path) -> Rows:
    """The rows in the logs of open shards, up to the first record of each that is not whole: a crash tears the last."""
    rows: Rows = {}
    for path in sorted(folder.glob("part-*.arrows")):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            continue  # its shard was committed just now
        for batch in _log_batches(raw):
            rows.update(_texts(batch.select(COLUMNS).to_pylist()))
    return rows


def _log_batches(raw: bytes) -> list[pa.RecordBatch]:
    """Each record: its length and its CRC-32, both 32 bits and little-endian, and an Arrow IPC batch of ROW_SCHEMA."""
    batches, at = [], 0
    while len(raw) - at > 8:
        length, checksum = struct.unpack_from("<II", raw, at)
        record = raw[at + 8 : at + 8 + length]
        if len(record) != length or not length or zlib.crc32(record) != checksum:
            break
        batches.append(pa.ipc.read_record_batch(pa.py_buffer(record), ROW_SCHEMA))
        at += 8 + length
    return batches


def _texts(rows: list[dict[str, Any]]) -> Rows:
    return {identity_of(row): row["text"] for row in rows}


def started_again(
    journal: Path, specification: Specification, seen: dict[Identity, tuple[str, float]]
) -> tuple[int, int]:
    """By the fake engines' journal: requests that ran beyond one for each row, and how many of them began when the row
    had been seen on disk. Rows that are not to be accepted do not count."""
    identities = {specification.seeds[identity]: identity for identity in specification.texts}
    starts: Counter[Identity] = Counter()
    needless = 0
    for line in journal.read_text().splitlines():
        event, seed, at, _ = line.split()
        if event == "start" and (identity := identities.get(int(seed))):
            starts[identity] += 1
            needless += float(at) > seen.get(identity, ("", float("inf")))[1]
    return sum(starts.values()) - len(starts), needless

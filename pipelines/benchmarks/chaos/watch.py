"""Reads a run at random moments while it is written and its writers are killed.

Invariants checked, at every moment:

- a file that a glob finds in `data/` is a complete shard with all its siblings, and never changes or goes away;
- a row that was on disk once, in a shard or in the log, stays there with the same text, and no engine gets it again.
"""

import hashlib
import random
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipelines.benchmarks.chaos.check import (
    COLUMNS,
    UNREADABLE,
    ExpectedRun,
    Identity,
    identify,
    read_rows,
    sibling_faults,
)
from schemas.rows import ROW_SCHEMA

_MAX_PAUSE_SECONDS = 1.0

Texts = dict[Identity, str]
"""text by output"""


class Watcher:
    """Reads a run in a thread at random moments while its block runs; `look` reads it at once.

    Args:
        run: the run folder; need not be there yet.
        draw: source of the moments.
        refresh: called before each look; it copies the run to the folder where the run is in an object store.

    Attributes:
        torn: shards that were found incomplete, or changed later.
        forgotten: rows that were found once, and later were gone or had another text.
        seen: text of each row that was found, and when that was (seconds since 1970).
        looks: number of times that the run was read.
        last_growth: when a look last found new rows, on the monotonic clock.
    """

    def __init__(
        self, run: Path, expected: ExpectedRun, draw: random.Random, refresh: Callable[[], None] = lambda: None
    ) -> None:
        self.run, self._refresh = run, refresh
        self._shards, self._draw = expected.shards, draw
        self._committed: dict[str, tuple[bytes, Texts]] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self.torn: list[str] = []
        self.forgotten: list[str] = []
        self.seen: dict[Identity, tuple[str, float]] = {}
        self.looks = 0
        self.last_growth = time.monotonic()

    def __enter__(self) -> "Watcher":
        self._watching = self._threads.submit(self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._threads.shutdown()
        if error is None:
            self._watching.result()

    def look(self) -> int:
        """Reads the whole run; returns its number of rows."""
        with self._lock:
            self._refresh()
            # The logs first: a row that moves from a log into a shard meanwhile is then found in the shard. The other
            # way round it could be missed in both.
            texts = read_logs(self.run / "log")
            texts.update(self._read_shards())
            self._compare(texts)
            self.looks += 1
            return len(texts)

    def _watch(self) -> None:
        while not self._ended.wait(self._draw.uniform(0, _MAX_PAUSE_SECONDS)):
            self.look()

    def _read_shards(self) -> Texts:
        files = {path.name: path.read_bytes() for path in (self.run / "data").glob("*.parquet")}
        for name in self._committed.keys() - files.keys():
            self.torn.append(f"data/{name}: it was there and is gone")
            del self._committed[name]
        for name, raw in files.items():
            known, digest = self._committed.get(name), hashlib.sha256(raw).digest()
            if known and known[0] == digest:
                continue
            texts: Texts = {}
            try:
                if known:
                    raise ValueError("its content changed after it was committed")
                texts = self._read_shard(name, raw)
            except UNREADABLE as error:
                self.torn.append(f"data/{name}: {error}")
            # A torn shard is kept too, without rows: the next look does not report it again.
            self._committed[name] = digest, texts
        return {identity: text for _, texts in self._committed.values() for identity, text in texts.items()}

    def _read_shard(self, name: str, raw: bytes) -> Texts:
        """Returns the texts of a shard and its siblings.

        Raises:
            ValueError: a sibling is missing or changed, or the rows are not exactly those of this shard.
        """
        rows, siblings = read_rows(raw)
        if faults := list(sibling_faults(self.run, siblings)):
            raise ValueError("; ".join(faults))
        for sibling in siblings:
            if sibling.startswith("tries/"):
                read_rows((self.run / sibling).read_bytes())  # whole, and no rows of the shard
                continue
            rows += read_rows((self.run / sibling).read_bytes())[0]
        number = int(name.removeprefix("part-").removesuffix(".parquet"))
        found, expected = Counter(map(identify, rows)), Counter(self._shards[number])
        if found != expected:
            missing, surplus = (expected - found).total(), (found - expected).total()
            raise ValueError(f"{missing} rows are missing and {surplus} are too many")
        return _texts(rows)

    def _compare(self, texts: Texts) -> None:
        """Compares this look with all earlier ones, and keeps what is new."""
        for identity, (text, _) in list(self.seen.items()):
            if texts.get(identity) != text:
                self.forgotten.append(f"{identity}: {'not the same text' if identity in texts else 'gone'}")
                del self.seen[identity]
        now = time.time()
        for identity in texts.keys() - self.seen.keys():
            self.seen[identity] = texts[identity], now
            self.last_growth = time.monotonic()


def read_logs(folder: Path) -> Texts:
    """Reads the rows in the logs of open shards.

    Each log is read up to its first incomplete record: a crash may tear the last one, which is no fault.
    """
    texts: Texts = {}
    for path in sorted(folder.glob("*.arrows")):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            continue  # its shard was committed just now
        for batch in _log_batches(raw, prefix=8 if path.name.startswith("rows-") else 0):
            texts.update(_texts(batch.select(COLUMNS).to_pylist()))
    return texts


def _log_batches(raw: bytes, prefix: int) -> list[pa.RecordBatch]:
    """Reads the records of a log.

    A record is its length and its CRC-32, both 32 bits and little-endian, and an Arrow IPC batch of ROW_SCHEMA. On an
    object store the number of its shard comes before it, in `prefix` bytes.
    """
    batches, at = [], prefix
    while len(raw) - at > 8:
        length, checksum = struct.unpack_from("<II", raw, at)
        record = raw[at + 8 : at + 8 + length]
        if len(record) != length or not length or zlib.crc32(record) != checksum:
            break
        batches.append(pa.ipc.read_record_batch(pa.py_buffer(record), ROW_SCHEMA))
        at += 8 + length + prefix
    return batches


def _texts(rows: list[dict[str, Any]]) -> Texts:
    return {identify(row): row["text"] for row in rows}


def count_repeated_requests(
    journal: Path, expected: ExpectedRun, seen: dict[Identity, tuple[str, float]]
) -> tuple[int, int]:
    """Counts requests in the fake engines' journal, without those of rows that are to fail.

    Returns:
        Requests beyond one for each seed, and how many requests began when their output was already seen on disk.
    """
    starts: Counter[str] = Counter()
    needless = 0
    for line in journal.read_text().splitlines():
        event, seed, at, _ = line.split()
        if event == "start" and (identity := expected.requests.get(int(seed))):
            starts[seed] += 1
            needless += float(at) > seen.get(identity, ("", float("inf")))[1]
    return sum(starts.values()) - len(starts), needless

"""The index of a run's committed shards: what a resume and `kindling status` need of each, in one file.

`index.parquet` is derived from the footers of data/, which it saves reading: delete it at any time, and the next start
of the job builds it again. It is never asked whether a shard is there, only what is in one: an entry counts if its data
file is listed with the size that the entry tells and it is of this run; the footer of any other shard is read. It may
therefore be old, torn or another run's.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.rows import FOLDER_OF_STATE, REJECTED, STATES, rule_of
from schemas.run import Manifest, RunRecord
from services.storage.filesystem import write_atomic
from services.storage.store import ShardStore, shard_path
from services.storage.time_spans import active_seconds

INDEX_PATH = "index.parquet"

# To be raised whenever an entry comes to mean something else.
_FORMAT = {b"kindling.index": b"2"}
_TOKENS = ("prompt_tokens", "cached_prompt_tokens", "output_tokens", "accepted_output_tokens")
_MOMENT = pa.timestamp("ms", tz="UTC")
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int64(), nullable=False) for name in ("shard", "bytes")),
        pa.field("fingerprint", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in (*STATES, *_TOKENS)),
        pa.field("rejects", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("started_at", _MOMENT, nullable=False),
        pa.field("finished_at", _MOMENT, nullable=False),
        # From, to, from, to: those of its manifest.
        pa.field("pauses", pa.list_(_MOMENT), nullable=False),
    ],
    metadata=_FORMAT,
)
# The file is written anew when this many shards, and this share of all, are not in it: a start reads no more footers
# than that, and what is written in all grows as the number of shards does.
_UNSAVED_SHARDS = 1000
_UNSAVED_SHARE = 0.02
# Footers are round trips on an object store. A thread takes several at once: to hand over one costs about as much as to
# read it from a local disk.
_THREADS = 16
_FOOTERS_A_TASK = 32


@dataclass(frozen=True)
class Totals:
    """All committed shards together.

    Attributes:
        counts: rows by state.
        rejects: rejected rows by rule, the commonest first.
        active_seconds: time in which some shard was being generated; pauses between starts do not count.
    """

    shards: int
    counts: dict[str, int]
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    accepted_output_tokens: int
    rejects: dict[str, int]
    active_seconds: float


class ShardIndex:
    """One entry for each committed shard; made by `read_index`.

    Attributes:
        committed: numbers of the shards that were on disk when it was read.
    """

    def __init__(self, store: ShardStore, entries: pa.Table, new: list[dict[str, Any]], outdated: int) -> None:
        self._store, self._entries, self._new = store, entries, new
        self._changes = len(new) + outdated
        # An entry of a shard that is gone must not be met by the file of that name that is generated now.
        self._due = outdated > 0
        self.committed = {*entries["shard"].to_pylist(), *(entry["shard"] for entry in new)}

    def add(self, manifest: Manifest, rows: pa.Table) -> None:
        """Adds a shard that was committed just now, with all its rows."""
        reasons = rows.filter(pc.equal(rows["state"], REJECTED))["reason"]
        size = self._store.size(shard_path("data", manifest.shard))
        self._new.append(_entry(manifest.shard, size, manifest, reasons))
        self._changes += 1

    def save_if_due(self) -> None:
        """Writes index.parquet if many shards are not in it yet; to be called as shards are added.

        Raises:
            OSError: it cannot be written.
        """
        known = self._entries.num_rows + len(self._new)
        if self._due or self._changes >= max(_UNSAVED_SHARDS, known * _UNSAVED_SHARE):
            self.save()

    def save(self) -> None:
        """Writes index.parquet, atomically, if it is not up to date.

        Raises:
            OSError: it cannot be written.
        """
        if not self._changes:
            return
        table = self.table()
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        write_atomic(self._store.fs, self._store.path(INDEX_PATH), buffer.getvalue())
        self._entries, self._new, self._changes, self._due = table, [], 0, False

    def totals(self) -> Totals:
        """The sums over all committed shards."""
        table = self.table()
        counts, tokens = ({name: pc.sum(table[name]).as_py() or 0 for name in names} for names in (STATES, _TOKENS))
        return Totals(
            shards=table.num_rows,
            counts=counts,
            **tokens,
            rejects=_rejects(table["rejects"]),
            active_seconds=round(active_seconds(*spans_of(table)), 3),
        )

    def table(self) -> pa.Table:
        """One row for each committed shard: its number, rows by state, tokens, rejects, and when it was generated."""
        if not self._new:
            return self._entries
        new = pa.Table.from_pylist(self._new, schema=_SCHEMA)
        return pa.concat_tables([self._entries, new]).unify_dictionaries().combine_chunks()


def read_index(store: ShardStore, run: RunRecord) -> ShardIndex:
    """The entries of the shards whose data files are there; nothing is written.

    Raises:
        RunError: the footer of a shard had to be read, and is damaged.
    """
    sizes = store.sizes()
    saved = _saved(store)
    entries = saved.filter(_holds(saved, sizes, run)) if saved.num_rows else saved
    missing = sorted(sizes.keys() - set(entries["shard"].to_pylist()))
    tasks = [missing[i : i + _FOOTERS_A_TASK] for i in range(0, len(missing), _FOOTERS_A_TASK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        read = threads.map(lambda shards: [_read_entry(store, shard, sizes[shard]) for shard in shards], tasks)
        new = list(chain.from_iterable(read))
    return ShardIndex(store, entries, new, outdated=saved.num_rows - entries.num_rows)


def _saved(store: ShardStore) -> pa.Table:
    """The entries in index.parquet; none where it is not there, damaged, or of another version."""
    try:
        table = store.read(INDEX_PATH)
    except (OSError, pa.ArrowException):
        return _no_entries()
    ours = table.schema.equals(_SCHEMA) and table.schema.metadata == _SCHEMA.metadata
    return table if ours and pc.count_distinct(table["shard"]).as_py() == table.num_rows else _no_entries()


def _no_entries() -> pa.Table:
    # Not `empty_table`: for the first array that it makes of Python's values pyarrow imports pandas, which takes a
    # second. A new run makes none before its first rows are with the engines.
    return pa.Table.from_batches([], schema=_SCHEMA)


def _holds(saved: pa.Table, sizes: dict[int, int], run: RunRecord) -> pa.ChunkedArray:
    """Which entries tell of a shard that is there, as it is there, and is of this run."""
    at = pc.index_in(saved["shard"], value_set=pa.array(sizes.keys(), pa.int64()))
    bytes_there = pa.array(sizes.values(), pa.int64()).take(at)  # null where no file is
    as_it_is = pc.fill_null(pc.equal(bytes_there, saved["bytes"]), False)
    ours = pa.array([run.fingerprint, *run.earlier_fingerprints])
    return pc.and_(as_it_is, pc.is_in(saved["fingerprint"].cast(pa.string()), value_set=ours))


def _read_entry(store: ShardStore, shard: int, size: int) -> dict[str, Any]:
    manifest = store.manifest(shard)
    return _entry(shard, size, manifest, _reasons(store, shard) if manifest.counts[REJECTED] else ())


def _reasons(store: ShardStore, shard: int) -> Iterable[pa.StringScalar]:
    """Why rows of a shard were rejected; nothing where the file is lost or damaged, which is for `verify` to tell."""
    try:
        return store.read(shard_path(FOLDER_OF_STATE[REJECTED], shard), ["reason"])["reason"]
    except (OSError, pa.ArrowException):
        return ()


def _entry(shard: int, size: int, manifest: Manifest, reasons: Iterable[pa.StringScalar]) -> dict[str, Any]:
    return {
        "shard": shard,
        "bytes": size,
        "fingerprint": manifest.fingerprint,
        **{state: manifest.counts.get(state, 0) for state in STATES},
        **{name: getattr(manifest, name) for name in _TOKENS},
        "rejects": list(Counter(rule_of(reason.as_py()) for reason in reasons).items()),
        "started_at": datetime.fromisoformat(manifest.started_at),
        "finished_at": datetime.fromisoformat(manifest.finished_at),
        "pauses": [datetime.fromisoformat(moment) for pause in manifest.pauses for moment in pause],
    }


def _rejects(column: pa.ChunkedArray) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for chunk in column.chunks:
        pairs = pa.table({"reason": chunk.keys, "rows": chunk.items}).group_by("reason").aggregate([("rows", "sum")])
        for pair in pairs.to_pylist():
            reasons[pair["reason"]] += pair["rows_sum"]
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def spans_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """From when to when the shards of an index were generated, in seconds; with a pause it takes several spans."""
    if not table.num_rows:  # a new run's first row does not wait for pandas, which pyarrow imports for what follows
        return np.empty(0), np.empty(0)
    paused = pc.greater(pc.list_value_length(table["pauses"]), 0)
    whole = table.filter(pc.invert(paused))
    starts, ends = (whole[name].cast(pa.int64()).to_numpy() / 1000 for name in ("started_at", "finished_at"))
    moments = []
    for entry in table.filter(paused).select(["started_at", "pauses", "finished_at"]).to_pylist():
        moments += [each.timestamp() for each in (entry["started_at"], *entry["pauses"], entry["finished_at"])]
    return np.append(starts, moments[::2]), np.append(ends, moments[1::2])

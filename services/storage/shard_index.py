"""The index of a run's committed shards: the facts that a resume and `kindling status` need, in one file.

Invariant: the totals of an index are those of the footers in data/, whatever index.parquet holds. An entry counts only
if its data file is listed with the size in the entry, and if it belongs to this run; the footer of any other shard is
read.

So `index.parquet` may be old, torn or from another run. It is a copy that saves reading one footer a shard. It can be
deleted at any time, and the next start of the job builds it again. The listing of data/, never the index, says which
shards exist.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
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

from schemas.errors import RunError
from schemas.outcomes import OUTCOME_COLUMNS, Outcomes, add_reasons, by_frequency
from schemas.rows import ERROR, REJECTED, STATES
from schemas.run import Manifest, RunRecord
from services.storage.digest import ContentDigest
from services.storage.filesystem import write_atomic
from services.storage.parts import part_of, retry_of, shard_of
from services.storage.store import ShardStore, is_filesystem_failure, shard_path
from services.storage.time_spans import active_seconds

INDEX_PATH = "index.parquet"

# Must be raised whenever the meaning of an entry changes.
_FORMAT = {b"kindling.index": b"4"}
_REASONS = ("rejects", "errors", "tries")
_TOKENS = ("prompt_tokens", "cached_prompt_tokens", "output_tokens", "accepted_output_tokens")
_MOMENT = pa.timestamp("ms", tz="UTC")
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int64(), nullable=False) for name in ("shard", "bytes")),
        *(
            pa.field(name, pa.dictionary(pa.int32(), pa.string()), nullable=False)
            for name in ("fingerprint", "retried")
        ),
        *(pa.field(name, pa.int64(), nullable=False) for name in (*STATES, "cut_off", *_TOKENS)),
        *(pa.field(name, pa.map_(pa.string(), pa.int64()), nullable=False) for name in _REASONS),
        pa.field("started_at", _MOMENT, nullable=False),
        pa.field("finished_at", _MOMENT, nullable=False),
        # Begin and end of each pause in the manifest, one after the other.
        pa.field("pauses", pa.list_(_MOMENT), nullable=False),
    ],
    metadata=_FORMAT,
)
# The file is written again once it lacks this many shards and this share of all shards. So a start reads at most that
# many footers, and the bytes written in a whole run grow only in proportion to its number of shards.
_MAX_UNSAVED_SHARDS = 1000
_MAX_UNSAVED_SHARE = 0.02
# Each footer is a round trip on an object store. A thread reads several at a time: on a local disk handing over one
# footer costs about as much as reading it.
_THREADS = 16
_FOOTERS_PER_TASK = 32


@dataclass(frozen=True)
class Totals:
    """Totals of all committed shards, and of the retries of their rows.

    Attributes:
        shards: number of shards.
        outcomes: states of the rows, and reasons, the commonest first.
        prompt_tokens: tokens of all prompts.
        cached_prompt_tokens: prompt tokens taken from prefix caches.
        output_tokens: tokens of all outputs.
        accepted_output_tokens: tokens of accepted outputs.
        active_seconds: time in which some shard was being generated, without pauses between starts.
    """

    shards: int
    outcomes: Outcomes
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    accepted_output_tokens: int
    active_seconds: float


class ShardIndex:
    """One entry for each committed shard; made by `read_index`.

    Args:
        entries: entries read from index.parquet that still hold.
        new_entries: entries made from footers.
        outdated: number of entries in index.parquet that no longer hold.

    Attributes:
        committed: numbers of the parts that were on disk when the index was read: shards, and retries of their rows.
    """

    def __init__(self, store: ShardStore, entries: pa.Table, new_entries: list[dict[str, Any]], outdated: int) -> None:
        self._store, self._entries, self._new_entries = store, entries, new_entries
        self._changes = len(new_entries) + outdated
        # An entry of a deleted shard is removed from the file before the shard is generated again: the new data file
        # could have the size in the old entry.
        self._is_outdated = outdated > 0
        self.committed = {*entries["shard"].to_pylist(), *(entry["shard"] for entry in new_entries)}
        self._digest: ContentDigest | None = None

    def add(self, manifest: Manifest) -> None:
        """Adds a shard that was just committed."""
        part = part_of(manifest)
        size = self._store.file_size(shard_path("data", part))
        self._new_entries.append(_entry(self._store, part, size, manifest))
        self._changes += 1
        if self._digest is not None:
            self._digest.add(part, size, manifest.fingerprint, _milliseconds(manifest))

    def save_if_due(self) -> None:
        """Writes index.parquet if it lacks many shards; called after each `add`.

        Raises:
            OSError: the file cannot be written.
        """
        shards = self._entries.num_rows + len(self._new_entries)
        if self._is_outdated or self._changes >= max(_MAX_UNSAVED_SHARDS, shards * _MAX_UNSAVED_SHARE):
            self.save()

    def save(self) -> None:
        """Writes index.parquet, atomically, if it is not up to date.

        Raises:
            OSError: the file cannot be written.
        """
        if not self._changes:
            return
        table = self.table()
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        write_atomic(self._store.fs, self._store.path(INDEX_PATH), buffer.getvalue())
        self._entries, self._new_entries, self._changes, self._is_outdated = table, [], 0, False

    def totals(self, left: Collection[int] = (), left_state: str = "") -> Totals:
        """Totals of all committed shards; of a row that was retried the newest state counts.

        Args:
            left: shards whose rows of `left_state` do not count: a retry is about to generate them again.
        """
        table = self.table()
        tokens = {name: pc.sum(table[name]).as_py() or 0 for name in _TOKENS}
        outcomes = Outcomes(cut_off=pc.sum(table["cut_off"]).as_py() or 0)
        reasons = {REJECTED: "rejects", ERROR: "errors"}
        for state in STATES:
            live = _live(table, state, left if state == left_state else ())
            outcomes.counts[state] = pc.sum(live[state]).as_py() or 0
            if state in reasons:
                setattr(outcomes, reasons[state], _sum_reasons(live[reasons[state]]))
        outcomes.tries = _sum_reasons(table["tries"])
        return Totals(
            shards=sum(not retry_of(part) for part in table["shard"].to_pylist()),
            outcomes=outcomes,
            **tokens,
            active_seconds=round(active_seconds(*generation_spans(table)), 3),
        )

    def digest(self) -> str:
        """Returns a digest of the committed data files; it differs where a shard was added, removed or made again."""
        if self._digest is None:
            self._digest = ContentDigest()
            table = self.table().select(["shard", "bytes", "fingerprint"])
            finished_at = self.table()["finished_at"].cast(pa.int64())
            for facts in zip(*(column.to_pylist() for column in (*table.columns, finished_at)), strict=True):
                self._digest.add(*facts)
        return str(self._digest)

    def left_to_retry(self, run: RunRecord) -> dict[int, int]:
        """Number of rows that the run's last retry has left to generate, by shard; empty where there is no retry."""
        if not run.retries:
            return {}
        retry, table = run.retries[-1], self.table()
        live = _live(table, retry.state).select(["shard", retry.state])
        done = {shard_of(part) for part in table["shard"].to_pylist() if retry_of(part) == retry.number}
        rows: Counter[int] = Counter()
        for part, count in zip(*(live[name].to_pylist() for name in ("shard", retry.state)), strict=True):
            if count and shard_of(part) not in done:
                rows[shard_of(part)] += count
        return {shard: rows[shard] for shard, _, end in run.shard_ranges() if shard in rows and end <= retry.rows}

    def table(self) -> pa.Table:
        """Entries of all committed shards: number, rows by state, tokens, reasons, times of generation."""
        if not self._new_entries:
            return self._entries
        new_entries = pa.Table.from_pylist(self._new_entries, schema=_SCHEMA)
        return pa.concat_tables([self._entries, new_entries]).unify_dictionaries().combine_chunks()


def read_index(store: ShardStore, run: RunRecord) -> ShardIndex:
    """Reads the index of the committed shards; writes nothing.

    Raises:
        RunError: a footer had to be read, and its shard is damaged.
    """
    sizes = store.part_sizes()
    saved = _read_saved_entries(store)
    entries = saved.filter(_entries_that_hold(saved, sizes, run)) if saved.num_rows else saved
    missing = sorted(sizes.keys() - set(entries["shard"].to_pylist()))
    tasks = [missing[i : i + _FOOTERS_PER_TASK] for i in range(0, len(missing), _FOOTERS_PER_TASK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        results = threads.map(lambda shards: [_read_entry(store, shard, sizes[shard], run) for shard in shards], tasks)
        new_entries = list(chain.from_iterable(results))
    return ShardIndex(store, entries, new_entries, outdated=saved.num_rows - entries.num_rows)


def remove_unlisted_siblings(store: ShardStore, index: ShardIndex, run: RunRecord) -> None:
    """Removes the siblings that a driver left beside a shard that another start committed, and those of retries that
    later ones superseded.

    Those of another uncommitted shard stay: on an object store a driver that lost its lease may commit it in this
    moment.
    """
    by_shard: dict[int, list[str]] = defaultdict(list)
    for path, shard in store.list_siblings().items():
        by_shard[shard].append(path)
    for part, paths in by_shard.items():
        if part not in index.committed and 0 < retry_of(part) < len(run.retries):
            for path in paths:
                store.remove(path)
    table = index.table()
    has_rows = [(table[state].to_numpy() > 0).astype(int) for state in (REJECTED, ERROR)]
    has_rows.append(np.array([bool(tries) for tries in table["tries"].to_pylist()]).astype(int))
    for shard, number in zip(table["shard"].to_pylist(), sum(has_rows).tolist(), strict=True):
        if len(by_shard[shard]) > number:
            listed = store.read_manifest(shard).siblings
            for path in set(by_shard[shard]) - listed.keys():
                store.remove(path)


def _read_saved_entries(store: ShardStore) -> pa.Table:
    """Entries in index.parquet; none if the file is missing, damaged, or of another version."""
    try:
        table = store.read_table(INDEX_PATH)
        table.validate(full=True)  # a page's checksum does not cover its header: a text may have no place in its list
    except (OSError, pa.ArrowException):
        return _no_entries()
    if not table.schema.equals(_SCHEMA) or table.schema.metadata != _SCHEMA.metadata:
        return _no_entries()
    has_duplicates = pc.count_distinct(table["shard"]).as_py() < table.num_rows
    return _no_entries() if has_duplicates else table


def _no_entries() -> pa.Table:
    # Not `empty_table`: it makes an array of Python values, for which pyarrow imports pandas, and that takes a second.
    # A new run makes no such array before its first rows are with the engines.
    return pa.Table.from_batches([], schema=_SCHEMA)


def _entries_that_hold(saved: pa.Table, sizes: dict[int, int], run: RunRecord) -> pa.ChunkedArray:
    """Mask of the entries whose data file has the size in the entry, and which belong to this run."""
    positions = pc.index_in(saved["shard"], value_set=pa.array(sizes.keys(), pa.int64()))
    file_bytes = pa.array(sizes.values(), pa.int64()).take(positions)  # null if there is no data file
    same_size = pc.fill_null(pc.equal(file_bytes, saved["bytes"]), False)
    fingerprints = pa.array(run.fingerprints)
    return pc.and_(same_size, pc.is_in(saved["fingerprint"].cast(pa.string()), value_set=fingerprints))


def _read_entry(store: ShardStore, shard: int, size: int, run: RunRecord) -> dict[str, Any]:
    """Reads the entry of one shard; refuses a file that another run wrote, or that lies under a wrong number.

    Else a resume would take its rows for those of this shard, which would never be generated.
    """
    manifest = store.read_manifest(shard)
    is_own = manifest.fingerprint in run.fingerprints
    if not is_own or part_of(manifest) != shard:
        cause = "it belongs to another run" if not is_own else f"it holds shard {manifest.shard} of this run"
        remedy = "`kindling verify RUN --repair` moves it aside, and the next start makes the shard"
        raise RunError(store.path(shard_path("data", shard)), None, cause, remedy)
    return _entry(store, shard, size, manifest)


def _entry(store: ShardStore, shard: int, size: int, manifest: Manifest) -> dict[str, Any]:
    cut_off, rejects, errors = manifest.cut_off, manifest.rejects, manifest.errors
    if cut_off is None or rejects is None or errors is None:  # of a version before: its rows say it
        outcomes = _read_outcomes(store, shard, manifest)
        cut_off, rejects, errors = outcomes.cut_off, outcomes.rejects, outcomes.errors
    return {
        "shard": shard,
        "bytes": size,
        "fingerprint": manifest.fingerprint,
        "retried": manifest.retried,
        **{state: manifest.counts.get(state, 0) for state in STATES},
        "cut_off": cut_off,
        **{name: getattr(manifest, name) for name in _TOKENS},
        "rejects": list(rejects.items()),
        "errors": list(errors.items()),
        "tries": list(manifest.tries.items()),
        "started_at": datetime.fromisoformat(manifest.started_at),
        "finished_at": datetime.fromisoformat(manifest.finished_at),
        "pauses": [datetime.fromisoformat(moment) for pause in manifest.pauses for moment in pause],
    }


def _read_outcomes(store: ShardStore, shard: int, manifest: Manifest) -> Outcomes:
    """Counts the outcomes of a shard's rows. Lost or damaged files count as empty: only `verify` reports them.

    Raises:
        OSError: the file system failed; the file may be whole, and its counts would be kept as empty.
    """
    outcomes = Outcomes()
    for path in (shard_path("data", shard), *manifest.siblings):
        try:
            outcomes.add(Outcomes.of(store.read_table(path, list(OUTCOME_COLUMNS))))
        except (OSError, pa.ArrowException) as error:
            if is_filesystem_failure(error):
                raise
    return outcomes


def _milliseconds(manifest: Manifest) -> int:
    return pa.scalar(datetime.fromisoformat(manifest.finished_at), _MOMENT).value


def _live(table: pa.Table, state: str, left: Collection[int] = ()) -> pa.Table:
    """Entries whose rows of a state count: no later part of the shard retried them, and none is about to.

    Args:
        left: shards whose rows of this state do not count.
    """
    # A comparison with a text makes pyarrow import pandas, which takes a second: not before a run's first rows.
    if not left and not any(map(retry_of, table["shard"].to_pylist())):
        return table
    retried = table.filter(pc.equal(table["retried"].cast(pa.string()), state))["shard"].to_pylist()
    if not retried and not left:
        return table
    newest: dict[int, int] = {}
    for part in retried:
        newest[shard_of(part)] = max(newest.get(shard_of(part), 0), retry_of(part))
    parts = table["shard"].to_pylist()
    return table.filter(
        pa.array([retry_of(p) >= newest.get(shard_of(p), 0) and shard_of(p) not in left for p in parts], pa.bool_())
    )


def _sum_reasons(column: pa.ChunkedArray) -> Counter[str]:
    """Rows by reason, the commonest first."""
    counts: Counter[str] = Counter()
    for chunk in column.chunks:
        pairs = pa.table({"reason": chunk.keys, "rows": chunk.items}).group_by("reason").aggregate([("rows", "sum")])
        for pair in pairs.to_pylist():
            counts[pair["reason"]] += pair["rows_sum"]
    commonest: Counter[str] = Counter()
    add_reasons(commonest, by_frequency(counts))
    return commonest


def generation_spans(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Spans of time in which the shards of an index were generated; a shard with a pause has several.

    Args:
        table: entries of an index.

    Returns:
        (begin, end) of the spans, in seconds since 1970, each of shape (spans,).
    """
    if not table.num_rows:  # pyarrow imports pandas for the calls below, and a new run's first row would wait for it
        return np.empty(0), np.empty(0)
    has_pause = pc.greater(pc.list_value_length(table["pauses"]), 0)
    without_pause = table.filter(pc.invert(has_pause))
    starts, ends = (without_pause[name].cast(pa.int64()).to_numpy() / 1000 for name in ("started_at", "finished_at"))
    # With pauses: start, begin and end of each pause, finish; every two of these moments enclose a span.
    moments: list[float] = []
    for entry in table.filter(has_pause).select(["started_at", "pauses", "finished_at"]).to_pylist():
        moments += [time.timestamp() for time in (entry["started_at"], *entry["pauses"], entry["finished_at"])]
    return np.append(starts, moments[::2]), np.append(ends, moments[1::2])

"""`kindling verify` of a label run: each shard belongs to the run, is undamaged, and agrees with its own footer."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipelines.labelling.contexts import CONTEXT_SCHEMA, ContextManifest, read_manifest
from pipelines.labelling.ranges import LineRange
from pipelines.labelling.record import LabelRecord
from pipelines.verdict import Fault, Verdict, read_failure
from schemas.errors import RunError, UnreadableError
from schemas.rows import ACCEPTED
from schemas.text import plural
from services.storage.store import ShardStore, is_filesystem_failure, shard_path


def label_verdict(store: ShardStore, run: LabelRecord) -> Verdict:
    """Checks all shards of a label run."""
    verdict, committed = Verdict(store.url), store.committed_shards()
    kept: Counter[str] = Counter()
    for line_range in run.ranges:
        shard = line_range.shard
        path = shard_path("data", shard)
        if shard not in committed:
            span = f"bytes {line_range.start} to {line_range.end or 'the end'} of {line_range.source}"
            cause = f"{span} are not labelled yet: run the job again to resume it"
            verdict.faults.append(Fault(path, cause, is_unfinished=True))
            continue
        verdict.shards += 1
        try:
            verdict.faults.extend([Fault(path, cause, shard) for cause in _shard_faults(store, run, line_range, kept)])
        except (UnreadableError, OSError) as error:
            verdict.faults.append(read_failure(shard, error))
    verdict.rows[ACCEPTED] = kept.total()
    verdict.add_strays(store, {shard_path("data", line_range.shard) for line_range in run.ranges})
    if left := len(run.ranges) - verdict.shards:
        verdict.unfinished = f"{left:,} of {plural(len(run.ranges), 'shard')} are not labelled yet"
    return verdict


def _shard_faults(store: ShardStore, run: LabelRecord, line_range: LineRange, kept: Counter[str]) -> Iterator[str]:
    """Yields the faults of a committed shard; adds the number of its rows to `kept`, by source.

    Raises:
        UnreadableError, OSError: the file system failed, so the shard may be good or damaged.
    """
    path = shard_path("data", line_range.shard)
    try:
        manifest = read_manifest(store, line_range.shard)
        rows = store.read_table(path)
    except UnreadableError:
        raise
    except RunError as error:
        yield error.cause
        return
    except (OSError, pa.ArrowException) as error:
        if is_filesystem_failure(error):
            raise
        yield f"cannot be read: {error}"
        return
    if manifest.fingerprint != run.fingerprint:
        yield "it belongs to another run"
        return
    kept[line_range.source] += rows.num_rows
    yield from _differences(manifest, rows, line_range)


def _differences(manifest: ContextManifest, rows: pa.Table, line_range: LineRange) -> Iterator[str]:
    planned = (line_range.shard, line_range.source, line_range.start, line_range.end)
    if (manifest.shard, manifest.source, manifest.start, manifest.end) != planned:
        yield "its footer names another range than run.json does"
    if not rows.schema.equals(CONTEXT_SCHEMA):
        yield "its columns are not those of contexts"
        return
    emotions = Counter(label for labels in rows["emotions"].to_pylist() for label in labels)
    if rows.num_rows != manifest.kept or emotions != manifest.emotions:
        yield f"it holds {rows.num_rows} rows, and its footer counts {manifest.kept}, or other emotions"
    if manifest.kept + manifest.neutral + manifest.unsure != manifest.sentences:
        yield "the counts of its footer do not add up"
    offsets = rows["offset"].to_pylist()
    places = list(zip(offsets, rows["sentence"].to_pylist(), strict=True))
    if places != sorted(set(places)):
        yield "a sentence is repeated, or out of order"
    start, end = line_range.start, line_range.end
    if any(offset < start or (end is not None and offset >= end) for offset in offsets):
        yield "a sentence belongs to a line that does not begin in its range"

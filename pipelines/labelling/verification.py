"""`kindling verify` of a label run: every shard is there, whole, this run's, and holds what its footer says."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipelines.labelling.contexts import CONTEXT_SCHEMA, ContextManifest, read_manifest
from pipelines.labelling.ranges import LineRange
from pipelines.labelling.record import LabelRecord
from schemas.errors import RunError, UnreadableError
from services.storage.store import ShardStore, is_filesystem_failure, shard_path


def shard_faults(store: ShardStore, run: LabelRecord, each: LineRange, kept: Counter[str]) -> Iterator[str]:
    """What is wrong with a committed shard; adds its rows to `kept`, by their source.

    Raises:
        UnreadableError, OSError: that cannot be told.
    """
    path = shard_path("data", each.shard)
    try:
        manifest = read_manifest(store, each.shard)
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
        yield "it is of another run"
        return
    kept[each.source] += rows.num_rows
    yield from _differences(manifest, rows, each)


def _differences(manifest: ContextManifest, rows: pa.Table, each: LineRange) -> Iterator[str]:
    planned = (each.shard, each.source, each.start, each.end)
    if (manifest.shard, manifest.source, manifest.start, manifest.end) != planned:
        yield "its footer tells of another range than run.json does"
    if not rows.schema.equals(CONTEXT_SCHEMA):
        yield "its columns are not those of contexts"
        return
    emotions = Counter(label for labels in rows["emotions"].to_pylist() for label in labels)
    if rows.num_rows != manifest.kept or emotions != manifest.emotions:
        yield f"it holds {rows.num_rows} rows, and its footer tells of {manifest.kept}, or of other emotions"
    if manifest.kept + manifest.neutral + manifest.unsure != manifest.sentences:
        yield "the counts of its footer do not add up"
    offsets = rows["offset"].to_pylist()
    places = list(zip(offsets, rows["sentence"].to_pylist(), strict=True))
    if places != sorted(set(places)):
        yield "a sentence is there twice, or out of its order"
    if any(offset < each.start or (each.end is not None and offset >= each.end) for offset in offsets):
        yield "a sentence is of a line that does not begin in its range"

"""Retries: rows of a complete run that were rejected, or failed, are generated again, by a job that may have changed.

Invariant: nothing that is committed is written again. A retry commits parts of its own, and each holds all rows of its
shard that were in the retried state. So a retry that was stopped is resumed shard by shard.
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from pipelines.augmentation.plan import kept_fields, rows_of_part
from pipelines.inputs.reader import InputRows
from pipelines.run_folder import lines_of, read_part, write_errors
from schemas.errors import RunError
from schemas.fingerprint import difference
from schemas.rows import IDENTITY, WorkRow
from schemas.run import Retry, RunRecord
from services.replicas.row_records import Recipe
from services.storage.output_ids import OutputIds
from services.storage.parts import part_number, retry_of, shard_of
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore, shard_path

# Job keys that must not differ: they say which rows there are, and where.
_KEPT_BY_RETRY = ("inputs.", "samples", "sweep", "output.")


def plan_retry(store: ShardStore, new: RunRecord, state: str) -> RunRecord:
    """Plans the retry of a run's rows of one state by a job that may differ from the run's, and writes run.json.

    A retry that was stopped is resumed where job and state are the same; another one begins where it stands.

    Args:
        store: the run folder.
        new: run.json of the job, as if the folder were new.
        state: state of the rows to generate again.

    Raises:
        RunError: the folder holds no run, or one that is not complete; or the job has other rows or another layout.
    """
    old = store.read_run()
    if old is None or len(store.committed_shards()) < old.shards:
        cause = "only a complete run can be retried, and some of its rows have no final state yet"
        raise RunError("--retry", store.url, cause, "run the same command without --retry first")
    changes = difference(old.identity, new.identity)
    if kept := [change for change in changes if change.startswith(_KEPT_BY_RETRY)]:
        cause = "a retry generates rows of the same input into the same places:" + lines_of(kept)
        raise RunError("--retry", store.url, cause, "undo these changes, or name another output.path")
    earlier = [*old.earlier_fingerprints, old.fingerprint] if new.fingerprint != old.fingerprint else []
    fingerprints, last = earlier or old.earlier_fingerprints, old.retries[-1] if old.retries else None
    run = new.model_copy(update=kept_fields(old, "segments") | {"earlier_fingerprints": fingerprints})
    if any(change.startswith("model.") for change in changes):
        run.model_revision = ""
    index = read_index(store, old)
    is_resumed = last and (last.state, last.fingerprint) == (state, new.fingerprint) and index.left_to_retry(old)
    if not is_resumed and not index.totals().outcomes.counts[state]:
        return old  # no row is in that state
    if not is_resumed:
        retry = Retry(
            number=len(old.retries) + 1, state=state, rows=old.rows, fingerprint=new.fingerprint, changes=changes
        )
        run.retries = [*old.retries, retry]
    with write_errors(store.url):
        store.write_run(run)
    return run


def refuse_retries_without_shards(url: str, committed: set[int]) -> None:
    """Refuses a run in which a shard is gone and a retry of its rows is not: its rows would be there twice.

    Raises:
        RunError: there is such a retry.
    """
    for part in committed:
        if retry_of(part) and shard_of(part) not in committed:
            cause = f"{shard_path('data', part)} is a retry of rows of a shard that is not there"
            raise RunError(
                "output.path", url, cause, "`kindling verify --repair` moves it away, and the rows are made again"
            )


def rows_to_retry(
    run: RunRecord,
    reader: InputRows,
    recipes: Mapping[str, Recipe],
    writer: ShardWriter,
    store: ShardStore,
    left: Collection[int],
    duplicates: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[WorkRow]:
    """Yields the outputs that the run's last retry has left, in input order, and opens each of their parts.

    Args:
        run: the run.
        reader: the input.
        recipes: recipe of each variant of the run, in the order of the run.
        writer: writer of the parts.
        store: the run folder.
        left: shards with such outputs.
        duplicates: as for `work_rows`.
    """
    if not left:
        return
    cursor, output_ids, state = reader.cursor(), OutputIds(run), run.retries[-1].state
    committed: dict[int, list[int]] = {}
    for part in store.committed_parts():
        committed.setdefault(shard_of(part), []).append(part)
    for shard, start, end in run.shard_ranges():
        if shard not in left:
            continue
        retried: set[int] = set()
        for part in store.live_parts(state, committed[shard]):
            if path := store.file_of(part, state):
                retried.update(output_ids.of(read_part(store, path, list(IDENTITY))))
        part = part_number(shard, run.retries[-1].number)
        done = writer.open(part, start, end, retried)
        yield from rows_of_part(part, start, end, retried - done, run, cursor, recipes, duplicates)

"""`kindling verify`: checks that every output has exactly one final state, and that no shard is damaged.

Invariant: a run without faults holds exactly the outputs that run.json plans (each row x sample x variant once), in
files whose bytes are those that were committed. `--repair` moves files and never deletes one.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import product

import pyarrow as pa

from pipelines.labelling.card import renew_card as renew_label_card
from pipelines.labelling.record import read_record
from pipelines.labelling.verification import label_verdict
from pipelines.publishing.run_card import RunCard
from pipelines.run_folder import open_run
from pipelines.verdict import Fault, Verdict, parquet_files, read_failure
from schemas.errors import RunError, UnreadableError
from schemas.row_programs import TRIES_FOLDER
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, IDENTITY, STATES
from schemas.run import Manifest, RunRecord
from schemas.sweep import DEFAULT_VARIANT
from services.storage.lease import hold_lease, read_lease
from services.storage.parts import in_input_order, is_owned, part_number, part_of, shard_of
from services.storage.shard_index import read_index
from services.storage.store import ShardStore, is_filesystem_failure, shard_path

_SET_ASIDE = "set-aside"

_Identity = tuple[str, int, int, str]
"""values of the columns IDENTITY: source, row_index, sample, variant"""


def verify(url: str, repair: bool = False) -> Verdict:
    """Reads every file of a run, checks its checksums, and compares it with the plan in run.json.

    Args:
        url: the run folder.
        repair: move the files of damaged shards, and files of no shard, into a folder of their own; the next start of
            the job makes those shards again. Nothing is deleted.

    Raises:
        RunError: the folder holds no run; or, with `repair`, a job writes to it, or it cannot be written.
    """
    store = ShardStore(url)
    # A label run's shards are ranges of raw text, and its rows have no states.
    labels = read_record(store)
    check, renew_card = (
        (partial(label_verdict, store, labels), partial(renew_label_card, store, labels))
        if labels
        else (partial(_verdict, store, run := open_run(store)), partial(_renew_card, store, run))
    )
    driver = read_lease(store)  # before a repair, which holds the lease itself
    if not repair:
        verdict = check()
        verdict.leftovers = sorted([*verdict.leftovers, *store.list_temporary()])
        return verdict.after(driver)
    try:
        # The lease keeps a job from committing shards between the check and the move.
        with hold_lease(store):
            verdict = check()
            _set_aside(store, verdict)
            if verdict.moved:
                renew_card()  # else `load_dataset` would return the rows of the old files from its cache
    except OSError as error:
        cause = f"cannot be repaired: {error.strerror or error}"
        raise RunError("RUN", url, cause, "repair the folder, or name one that you may write to") from None
    return verdict.after(driver)


def _verdict(store: ShardStore, run: RunRecord) -> Verdict:
    verdict = Verdict(store.url)
    siblings: dict[int, list[str]] = defaultdict(list)
    for path, number in store.list_siblings().items():
        siblings[number].append(path)
    parts: dict[int, list[int]] = defaultdict(list)
    for part in in_input_order(store.committed_parts()):
        parts[shard_of(part)].append(part)
    expected_files: set[str] = set()
    rows_left = 0
    committed = {part for numbers in parts.values() for part in numbers}
    for part, paths in siblings.items():
        if part not in committed and shard_of(part) < run.shards:
            # Of a start that was stopped in a commit; or a driver commits the part in this moment, if it is not gone.
            verdict.leftovers += paths
            expected_files.update(paths)
    for shard, start, end in run.shard_ranges():
        if part_number(shard) not in parts.get(shard, ()):
            cause = f"rows {start} to {end - 1} have no final state yet: run the job again to resume it"
            verdict.faults.append(Fault(shard_path("data", shard), cause, is_unfinished=True))
            rows_left += (end - start) * run.outputs_per_row
            continue
        verdict.shards += 1
        states: dict[_Identity, str] = {}
        faults_before = len(verdict.faults)
        for part in parts[shard]:
            if len(verdict.faults) > faults_before:
                # What it must hold depends on the earlier part, which is damaged (a repair moves both) or unreadable.
                expected_files.update((shard_path("data", part), *siblings[part]))
                continue
            listed = _check_part(store, run, part, (start, end), states, verdict)
            expected_files.update(siblings[part] if listed is None else listed)
            expected_files.add(shard_path("data", part))
            # On an object store another driver may have left siblings of its own beside a shard, under its own names.
            others = {path for path in siblings[part] if is_owned(path)} - expected_files
            verdict.leftovers += others
            expected_files |= others
    verdict.add_strays(store, expected_files)
    if run.rows_not_read:
        verdict.not_read = (
            f"target_accepted = {run.job['target_accepted']} is reached: {run.rows_not_read:,} input rows were not read"
        )
    if rows_left:
        verdict.unfinished = f"{rows_left:,} of {run.outputs:,} rows are in no committed shard yet"
    return verdict


def _check_part(
    store: ShardStore,
    run: RunRecord,
    part: int,
    rows: tuple[int, int],
    states: dict[_Identity, str],
    verdict: Verdict,
) -> list[str] | None:
    """Adds the faults and the rows of a part to the verdict.

    Args:
        rows: first input row of the shard, and the one after its last.
        states: states of the shard's outputs by its earlier parts; those of this part are added.

    Returns:
        its files of rejected and failed rows; None where the part cannot be read.
    """
    try:
        manifest = store.read_manifest(part)
        causes = [*_foreign_shard(run, manifest, part, *rows), *_changed_files(store, manifest)]
        causes = causes or list(_wrong_rows(store, run, manifest, states, verdict.rows))
    except (UnreadableError, OSError) as error:
        verdict.faults.append(read_failure(part, error))
    except RunError as error:
        verdict.faults.append(Fault(shard_path("data", part), error.cause, part))
    else:
        verdict.faults.extend(Fault(path, cause, part) for path, cause in causes)
        return list(manifest.siblings)
    return None


def _set_aside(store: ShardStore, verdict: Verdict) -> None:
    present = parquet_files(store)
    damaged_parts = {fault.damages for fault in verdict.faults if fault.damages is not None}
    # Later retries of the same rows go with a damaged part, and before it. The data file of each goes first: without it
    # the part is not committed, even if the repair is interrupted.
    siblings = store.list_siblings()
    parts = [
        part
        for part in reversed(in_input_order({*store.committed_parts(), *damaged_parts}))
        if any(_depends_on(part, damaged) for damaged in damaged_parts)
    ]
    damaged = [
        path
        for part in parts
        for path in (shard_path("data", part), *(path for path in siblings if siblings[path] == part))
    ]
    # A file beside a foreign shard is both damaged and a stray; it is moved once.
    for path in dict.fromkeys([*(path for path in damaged if path in present), *verdict.strays]):
        verdict.set_aside = verdict.set_aside or f"{_SET_ASIDE}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
        store.move(path, f"{verdict.set_aside}/{path}")
        verdict.moved.append(path)


def _renew_card(store: ShardStore, run: RunRecord) -> None:
    index = read_index(store, run)
    RunCard(store, run, index, index.totals().outcomes).renew()


def _depends_on(later: int, part: int) -> bool:
    """Returns whether a part is this part, or a later retry of rows of the same shard."""
    return shard_of(later) == shard_of(part) and later >= part


def _foreign_shard(run: RunRecord, manifest: Manifest, part: int, start: int, end: int) -> Iterator[tuple[str, str]]:
    """Path and cause of faults that show that a shard belongs to another run or to another place of this run."""
    path = shard_path("data", part)
    if manifest.fingerprint not in run.fingerprints:
        yield path, f"belongs to another run (fingerprint {manifest.fingerprint[:12]})"
    if (part_of(manifest), manifest.start, manifest.end) != (part, start, end):
        retry = f", retry {manifest.retry}" if manifest.retry else ""
        yield path, f"holds shard {manifest.shard}{retry}, rows {manifest.start} to {manifest.end - 1}"


def _changed_files(store: ShardStore, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Path and cause for files of rejected rows and errors that are missing, or changed since the commit."""
    for path, sha256 in manifest.siblings.items():
        try:
            content_sha256 = hashlib.sha256(store.fs.cat_file(store.path(path))).hexdigest()
        except FileNotFoundError:
            yield path, "missing"
            continue
        if content_sha256 != sha256:
            yield path, "its content is not what was committed (sha256 differs)"


def _wrong_rows(
    store: ShardStore, run: RunRecord, manifest: Manifest, states: dict[_Identity, str], rows: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Compares the identity of each row of a part with the identities that it must have.

    Args:
        states: states of the shard's outputs by its earlier parts; those of this part are added.
        rows: number of rows by state, to which those of this part are added.
    """
    expected = set(_identities(run, manifest.start, manifest.end))
    if manifest.retry:  # exactly the rows that were in the retried state, which these supersede
        expected = {identity for identity, state in states.items() if state == manifest.retried}
        rows[manifest.retried] -= len(expected)
    identities: Counter[_Identity] = Counter()
    for state in STATES:
        folder = FOLDER_OF_STATE[state]
        path = shard_path(folder, part_of(manifest)) if state == ACCEPTED else manifest.sibling(folder)
        if path is None:
            continue
        table, cause = _read_rows(store, run, path)
        if table is None:
            yield path, cause
            return
        if table.num_rows != manifest.counts[state] or set(table["state"].to_pylist()) - {state}:
            yield path, f"the manifest says {manifest.counts[state]} rows {state}, the file differs"
        rows[state] += table.num_rows
        its_rows = list(zip(*(table[name].to_pylist() for name in IDENTITY), strict=True))
        identities.update(its_rows)
        states.update(dict.fromkeys(its_rows, state))
    path = shard_path("data", part_of(manifest))
    for identity, times in identities.items():
        if times > 1:
            yield path, f"{_described(*identity)}, is there {times} times"
        if identity not in expected:
            yield path, f"{_described(*identity)}, does not belong here"
    for identity in sorted(expected - identities.keys()):
        yield path, f"{_described(*identity)}, is missing"
    yield from _wrong_tries(store, run, manifest, expected)


def _wrong_tries(
    store: ShardStore, run: RunRecord, manifest: Manifest, expected: set[_Identity]
) -> Iterator[tuple[str, str]]:
    """Compares the earlier tries of a part's rows with its manifest, and with the rows that it must have."""
    path, number = manifest.sibling(TRIES_FOLDER), sum(manifest.tries.values())
    if path is None:
        if number:
            yield shard_path("data", part_of(manifest)), f"the manifest says {number} earlier tries, and names no file"
        return
    table, cause = _read_rows(store, run, path)
    if table is None:
        yield path, cause
        return
    if table.num_rows != number:
        yield path, f"the manifest says {number} earlier tries, the file differs"
    for identity in sorted(set(zip(*(table[name].to_pylist() for name in IDENTITY), strict=True)) - expected):
        yield path, f"{_described(*identity)}, does not belong here"


def _read_rows(store: ShardStore, run: RunRecord, path: str) -> tuple[pa.Table | None, str]:
    """Reads a file of rows; None, with the cause, where it is damaged or has other columns.

    Raises:
        OSError: the file system failed; the file may be whole.
    """
    try:
        table = store.read_table(path)
    except (OSError, pa.ArrowException) as error:
        if is_filesystem_failure(error):
            raise
        return None, f"damaged: {str(error).splitlines()[0]}"
    return (table, "") if table.schema.equals(run.schema) else (None, "its columns are not those of a shard")


def _identities(run: RunRecord, start: int, end: int) -> Iterator[_Identity]:
    """Identities that the input rows `start` to `end` (exclusive) of a run must have."""
    first = 0
    for source in run.inputs:
        rows = range(max(start - first, 0), min(end - first, source.rows))
        yield from product([source.source], rows, range(run.samples), run.variant_names)
        first += source.rows


def _described(source: str, index: int, sample: int, variant: str) -> str:
    row = f"row {index} of {source}, sample {sample}"
    return row if variant == DEFAULT_VARIANT else f"{row}, variant {variant}"

"""`kindling verify`: proves that every input row has exactly one terminal state, and that every shard is whole."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

import pyarrow as pa

from pipelines.labelling.record import LabelRecord, read_record
from pipelines.labelling.verification import faults_of
from pipelines.run_folder import open_run
from schemas.errors import RunError, UnreadableError
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, IDENTITY, ROW_SCHEMA, STATES
from schemas.run import Manifest, RunRecord
from schemas.sweep import DEFAULT_VARIANT
from services.storage.lease import hold_lease
from services.storage.store import ShardStore, is_filesystem_failure, shard_path

_SET_ASIDE = "set-aside"

_Identity = tuple[str, int, int, str]
"""the values of the columns IDENTITY"""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: a file of the run, and what is the matter with it.

    Attributes:
        damages: number of the shard that must be made again because of it; None where nothing is there to be mended.
    """

    path: str
    cause: str
    damages: int | None = None


@dataclass
class Verdict:
    """What `verify` found. The run is whole if and only if `faults` is empty.

    Attributes:
        strays: files that no shard lists.
        set_aside: where `--repair` moved what is bad, below the run; empty where it moved nothing.
        moved: the files that it moved.
    """

    run: str
    shards: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    set_aside: str = ""
    moved: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "rows": dict(self.rows)}


def verify(url: str, repair: bool = False) -> Verdict:
    """Reads every file of a run, with its checksums, and compares it with what run.json says there must be.

    Args:
        repair: move the files of damaged shards, and those of no shard, out of the way; the next start of the job
            makes those shards again. Nothing is deleted.

    Raises:
        RunError: the folder holds no run; or it is to be repaired while a driver works on it, or cannot be written.
    """
    store = ShardStore(url)
    # A label run's shards are ranges of raw text, and its rows have no states.
    labels = read_record(store)
    judged = partial(_label_verdict, store, labels) if labels else partial(_verdict, store, open_run(store))
    if not repair:
        return judged()
    try:
        with hold_lease(store):
            verdict = judged()
            _set_aside(store, verdict)
    except OSError as error:
        cause = f"cannot be repaired: {error.strerror or error}"
        raise RunError("RUN", url, cause, "mend the folder, or name one that you may write to") from None
    return verdict


def _verdict(store: ShardStore, run: RunRecord) -> Verdict:
    verdict = Verdict(store.url)
    committed = store.committed_shards()
    expected_files = set()
    for shard, start, end in run.shard_ranges():
        if shard not in committed:
            cause = f"rows {start} to {end - 1} have no terminal state yet: run the job again to resume it"
            verdict.faults.append(Fault(shard_path("data", shard), cause))
            continue
        verdict.shards += 1
        expected_files.add(shard_path("data", shard))
        files = {shard_path(folder, shard) for folder in FOLDER_OF_STATE.values()}
        try:
            manifest = store.read_manifest(shard)
            causes = [*_foreign(run, manifest, shard, start, end), *_damaged(store, manifest)]
            causes = causes or list(_miscounted(store, run, manifest, verdict.rows))
        except (UnreadableError, OSError) as error:
            verdict.faults.append(_unread(shard, error))
            expected_files.update(files)
        except RunError as error:
            verdict.faults.append(Fault(shard_path("data", shard), error.cause, shard))
            expected_files.update(files)
        else:
            verdict.faults.extend(Fault(path, cause, shard) for path, cause in causes)
            expected_files.update(manifest.siblings)
    for path in sorted(_parquet_files(store) - expected_files):
        verdict.strays.append(path)
        verdict.faults.append(Fault(path, "no shard of this run lists this file"))
    return verdict


def _unread(shard: int, error: UnreadableError | OSError) -> Fault:
    """Not damage: a repair would throw away what is whole."""
    cause = error.cause if isinstance(error, UnreadableError) else f"cannot be read: {error.strerror or error}"
    return Fault(shard_path("data", shard), cause)


def _label_verdict(store: ShardStore, run: LabelRecord) -> Verdict:
    verdict, kept, committed = Verdict(store.url), Counter(), store.committed_shards()
    for each in run.ranges:
        path = shard_path("data", each.shard)
        if each.shard not in committed:
            cause = f"bytes {each.start} to {each.end or 'the end'} of {each.source} are not labelled yet"
            verdict.faults.append(Fault(path, f"{cause}: run the job again to resume it"))
            continue
        verdict.shards += 1
        try:
            verdict.faults.extend([Fault(path, cause, each.shard) for cause in faults_of(store, run, each, kept)])
        except (UnreadableError, OSError) as error:
            verdict.faults.append(_unread(each.shard, error))
    verdict.rows[ACCEPTED] = kept.total()
    expected = {shard_path("data", each.shard) for each in run.ranges}
    for path in sorted(_parquet_files(store) - expected):
        verdict.strays.append(path)
        verdict.faults.append(Fault(path, "no shard of this run lists this file"))
    return verdict


def _set_aside(store: ShardStore, verdict: Verdict) -> None:
    there = _parquet_files(store)
    shards = sorted({fault.damages for fault in verdict.faults if fault.damages is not None})
    # Of each shard its data file first: from then on it is not committed, whatever becomes of the rest.
    bad = [shard_path(folder, shard) for shard in shards for folder in FOLDER_OF_STATE.values()]
    # What lies beside a foreign shard is bad and a stray.
    for path in dict.fromkeys([*(path for path in bad if path in there), *verdict.strays]):
        verdict.set_aside = verdict.set_aside or f"{_SET_ASIDE}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
        store.move(path, f"{verdict.set_aside}/{path}")
        verdict.moved.append(path)


def _foreign(run: RunRecord, manifest: Manifest, shard: int, start: int, end: int) -> Iterator[tuple[str, str]]:
    path = shard_path("data", shard)
    if manifest.fingerprint not in (run.fingerprint, *run.earlier_fingerprints):
        yield path, f"belongs to another run (fingerprint {manifest.fingerprint[:12]})"
    if (manifest.shard, manifest.start, manifest.end) != (shard, start, end):
        yield path, f"holds shard {manifest.shard}, rows {manifest.start} to {manifest.end - 1}"


def _damaged(store: ShardStore, manifest: Manifest) -> Iterator[tuple[str, str]]:
    for path, sha256 in manifest.siblings.items():
        try:
            found = hashlib.sha256(store.fs.cat_file(store.path(path))).hexdigest()
        except FileNotFoundError:
            yield path, "missing"
            continue
        if found != sha256:
            yield path, "its content is not what was committed (sha256 differs)"


def _miscounted(store: ShardStore, run: RunRecord, manifest: Manifest, rows: Counter[str]) -> Iterator[tuple[str, str]]:
    """Compares the identities of a shard's rows, one by one, with those that its range must have."""
    found: Counter[_Identity] = Counter()
    for state in STATES:
        path = shard_path(FOLDER_OF_STATE[state], manifest.shard)
        if state != ACCEPTED and path not in manifest.siblings:
            continue
        try:
            table = store.read_table(path)
        except (OSError, pa.ArrowException) as error:
            if is_filesystem_failure(error):
                raise
            yield path, f"damaged: {str(error).splitlines()[0]}"
            return
        if not table.schema.equals(ROW_SCHEMA):
            yield path, "its columns are not those of a shard"
            return
        if table.num_rows != manifest.counts[state] or set(table["state"].to_pylist()) - {state}:
            yield path, f"the manifest says {manifest.counts[state]} rows {state}, the file differs"
        rows[state] += table.num_rows
        found.update(zip(*(table[name].to_pylist() for name in IDENTITY), strict=True))
    path = shard_path("data", manifest.shard)
    expected = set(_identities(run, manifest.start, manifest.end))
    for identity, times in found.items():
        if times > 1:
            yield path, f"{_told(*identity)}, is there {times} times"
        if identity not in expected:
            yield path, f"{_told(*identity)}, does not belong here"
    for identity in sorted(expected - found.keys()):
        yield path, f"{_told(*identity)}, is missing"


def _identities(run: RunRecord, start: int, end: int) -> Iterator[_Identity]:
    first = 0
    for source in run.inputs:
        rows = range(max(start - first, 0), min(end - first, source.rows))
        yield from product([source.source], rows, range(run.samples), run.variant_names)
        first += source.rows


def _told(source: str, index: int, sample: int, variant: str) -> str:
    row = f"row {index} of {source}, sample {sample}"
    return row if variant == DEFAULT_VARIANT else f"{row}, variant {variant}"


def _parquet_files(store: ShardStore) -> set[str]:
    files = set()
    for folder in FOLDER_OF_STATE.values():
        if store.fs.exists(store.path(folder)):
            names = (path.rsplit("/", 1)[-1] for path in store.fs.ls(store.path(folder), detail=False))
            files.update(f"{folder}/{name}" for name in names if name.endswith(".parquet"))
    return files

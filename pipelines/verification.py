"""`kindling verify`: proves that every input row has exactly one terminal state, and that every shard is whole."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from schemas.errors import RunError
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, ROW_SCHEMA, STATES
from schemas.run import Manifest, RunRecord
from services.store import ShardStore, shard_path


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: a file of the run, and what is the matter with it."""

    path: str
    cause: str


@dataclass
class Verdict:
    """What `verify` found. The run is whole if and only if `faults` is empty."""

    run: str
    shards: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "rows": dict(self.rows)}


def verify(url: str) -> Verdict:
    """Reads every file of a run, with its checksums, and compares it with what run.json says there must be.

    Raises:
        RunError: the folder holds no run.
    """
    store = ShardStore(url)
    run = open_run(store)
    verdict = Verdict(url)
    committed = store.committed()
    expected_files = set()
    for shard, start, end in run.shard_ranges():
        if shard not in committed:
            cause = f"rows {start} to {end - 1} have no terminal state yet: run the job again to resume it"
            verdict.faults.append(Fault(shard_path("data", shard), cause))
            continue
        verdict.shards += 1
        expected_files.add(shard_path("data", shard))
        try:
            manifest = store.manifest(shard)
        except RunError as error:
            verdict.faults.append(Fault(shard_path("data", shard), error.cause))
            continue
        expected_files.update(manifest.siblings)
        causes = [*_foreign(run, manifest, shard, start, end), *_damaged(store, manifest)]
        verdict.faults.extend(causes or _miscounted(store, run, manifest, verdict.rows))
    for path in sorted(_parquet_files(store) - expected_files):
        verdict.faults.append(Fault(path, "no shard of this run lists this file: move it away"))
    return verdict


def open_run(store: ShardStore) -> RunRecord:
    """The run.json of a folder that must have one.

    Raises:
        RunError: it has none.
    """
    run = store.read_run()
    if run is None:
        raise RunError("RUN", store.url, "no run.json there", "name the output.path of a job")
    return run


def _foreign(run: RunRecord, manifest: Manifest, shard: int, start: int, end: int) -> Iterator[Fault]:
    path = shard_path("data", shard)
    if manifest.fingerprint not in (run.fingerprint, *run.earlier_fingerprints):
        yield Fault(path, f"belongs to another run (fingerprint {manifest.fingerprint[:12]})")
    if (manifest.shard, manifest.start, manifest.end) != (shard, start, end):
        yield Fault(path, f"holds shard {manifest.shard}, rows {manifest.start} to {manifest.end - 1}")


def _damaged(store: ShardStore, manifest: Manifest) -> Iterator[Fault]:
    for path, sha256 in manifest.siblings.items():
        try:
            found = hashlib.sha256(store.fs.cat_file(store.path(path))).hexdigest()
        except FileNotFoundError:
            yield Fault(path, "missing")
            continue
        if found != sha256:
            yield Fault(path, "its content is not what was committed (sha256 differs)")


def _miscounted(store: ShardStore, run: RunRecord, manifest: Manifest, rows: Counter[str]) -> Iterator[Fault]:
    """Compares the identities of a shard's rows, one by one, with those that its range must have."""
    found: Counter[tuple[str, int, int]] = Counter()
    for state in STATES:
        path = shard_path(FOLDER_OF_STATE[state], manifest.shard)
        if state != ACCEPTED and path not in manifest.siblings:
            continue
        try:
            table = store.read(path)
        except (OSError, pa.ArrowException) as error:
            yield Fault(path, f"damaged: {str(error).splitlines()[0]}")
            return
        if not table.schema.equals(ROW_SCHEMA):
            yield Fault(path, "its columns are not those of a shard")
            return
        if table.num_rows != manifest.counts[state] or set(table["state"].to_pylist()) - {state}:
            yield Fault(path, f"the manifest says {manifest.counts[state]} rows {state}, the file differs")
        rows[state] += table.num_rows
        identity = (table[name].to_pylist() for name in ("source", "row_index", "sample"))
        found.update(zip(*identity, strict=True))
    path = shard_path("data", manifest.shard)
    expected = set(_identities(run, manifest.start, manifest.end))
    for (source, index, sample), times in found.items():
        if times > 1:
            yield Fault(path, f"row {index} of {source}, sample {sample}, is there {times} times")
        if (source, index, sample) not in expected:
            yield Fault(path, f"row {index} of {source}, sample {sample}, does not belong here")
    for source, index, sample in sorted(expected - found.keys()):
        yield Fault(path, f"row {index} of {source}, sample {sample}, is missing")


def _identities(run: RunRecord, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    first = 0
    for source in run.inputs:
        for index in range(max(start - first, 0), min(end - first, source.rows)):
            for sample in range(run.samples):
                yield source.source, index, sample
        first += source.rows


def _parquet_files(store: ShardStore) -> set[str]:
    files = set()
    for folder in FOLDER_OF_STATE.values():
        if store.fs.exists(store.path(folder)):
            names = (path.rsplit("/", 1)[-1] for path in store.fs.ls(store.path(folder), detail=False))
            files.update(f"{folder}/{name}" for name in names if name.endswith(".parquet"))
    return files

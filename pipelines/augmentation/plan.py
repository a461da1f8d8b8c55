"""A run from its job: a new run.json, or the old one where the job is the same; and the rows that are left to do."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from pipelines.inputs.reader import InputRows
from pipelines.run_folder import lines_of, refuse_other_job, versions, write_errors
from schemas.augment import AugmentJob
from schemas.errors import RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.rows import WorkRow
from schemas.run import InputSource, RunRecord, RunVariant
from schemas.sweep import DEFAULT_VARIANT
from services.replicas.row_records import Recipe
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore

_LONGEST_PREFIX = 64
# Job keys that may differ when a run is extended.
_EXTENDABLE = ("inputs.", "input.path", "input.limit")


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
    with write_errors(store.url):
        run = planned_run(store, job, recipes, inputs, extend, **facts)
        store.write_run(run)
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
    if old is None or not store.has_rows():
        return run
    return _extended(old, run, store.url) if extend else _resumed(old, run, store.url)


def work_rows(
    run: RunRecord,
    reader: InputRows,
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
            for output_id, (sample, name) in enumerate(outputs, number * len(outputs)):
                if output_id not in done:
                    yield WorkRow(
                        output_id, shard, source, index, sample, row.values, row.fault, prefix=prefixes[recipes[name]],
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
    remedy = "name another output.path, or undo the change"
    if all(change.startswith(_EXTENDABLE) for change in difference(old.identity, new.identity)):
        remedy += "; for rows added at the end, --extend"
    refuse_other_job(url, old.identity, new.identity, remedy)
    return new.model_copy(update=_kept(old, "segments", "earlier_fingerprints"))


def _extended(old: RunRecord, new: RunRecord, url: str) -> RunRecord:
    changes = [c for c in difference(old.identity, new.identity) if not c.startswith(_EXTENDABLE)]
    if not changes:
        changes = _not_appended(old.inputs, new.inputs)
    if changes:
        cause = "only rows at the end may be added to a run:" + lines_of(changes)
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

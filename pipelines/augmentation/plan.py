"""Plans a run: makes run.json of a new or a resumed run, and yields the rows that are left to generate.

Invariant: a folder that holds rows is resumed only by a job with the same identity (everything that can change an
output), or extended by rows at the end; and `work_rows` yields each output without a final state exactly once.
"""

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from pipelines.inputs.reader import InputRows, RowCursor
from pipelines.quality_control.early_stop import EarlyStop
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_control.row_program import QualityProgram
from pipelines.quality_control.scored_checks import revisions_of, scored_checks
from pipelines.recipes.generations import Generations
from pipelines.run_folder import lines_of, refuse_other_job, versions, write_errors
from schemas.augment import AugmentJob
from schemas.errors import RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.row_programs import REASONING
from schemas.rows import WorkRow
from schemas.run import REPLICA_SECONDS, InputSource, RunRecord, RunVariant
from schemas.sweep import DEFAULT_VARIANT
from schemas.text import plural
from services.replicas.row_records import Recipe, VariantSettings
from services.storage.parts import retry_of
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")

_MAX_PREFIX_CHARACTERS = 64
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
    """Plans the run of a job as `planned_run` does, and writes run.json.

    Raises:
        RunError: the folder holds the run of another job, or cannot be written.
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
    """Plans the run that a job begins or resumes in its output folder; writes nothing.

    A run that holds no row yet is replaced by any job: its model may have been misspelt, for example.

    Args:
        store: the output folder.
        job: the job.
        recipes: recipe of each variant of the job.
        inputs: sources of the input, in order.
        extend: accept rows that were added at the end of the input.
        facts: facts outside the job that identify the run too, such as the revision of a classifier.

    Raises:
        RunError: the folder holds the run of another job, or shards of another job and no run.json.
        OSError: the folder cannot be read.
    """
    run = new_run(job, recipes, inputs, facts)
    old = store.read_run()
    if old is None:
        _refuse_shards_of_others(store, run)
        return run
    if not store.has_rows():
        # The same job may have paid for engines that did not get as far as a row.
        kept = {REPLICA_SECONDS: old.replica_seconds} if old.replica_seconds and old.identity == run.identity else {}
        return run.model_copy(update={"last_metrics": kept})
    return _extended(old, run, store.url) if extend else _resumed(old, run, store.url)


def work_rows(
    run: RunRecord,
    reader: InputRows,
    recipes: Mapping[str, Recipe],
    writer: ShardWriter,
    committed: set[int],
    duplicates: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[WorkRow]:
    """Yields the outputs without a final state, in input order, and opens each of their shards with the writer.

    Args:
        run: the run.
        reader: the input.
        recipes: recipe of each variant of the run, in the order of the run.
        writer: writer of the shards; it knows which rows of an open shard are in its row log already.
        committed: numbers of the shards that are committed.
        duplicates: for each row that is refused as a near duplicate, the number of the earlier row that it is like.
    """
    cursor = reader.cursor()
    for shard, start, end in run.shard_ranges():
        if shard in committed:
            continue
        done = writer.open(shard, start, end)  # ids of the outputs that the row log of the shard holds
        wanted = set(range(start * run.outputs_per_row, end * run.outputs_per_row)) - done
        yield from rows_of_part(shard, start, end, wanted, run, cursor, recipes, duplicates)


def rows_of_part(
    part: int,
    start: int,
    end: int,
    wanted: set[int],
    run: RunRecord,
    cursor: RowCursor,
    recipes: Mapping[str, Recipe],
    duplicates: Mapping[int, int],
) -> Iterator[WorkRow]:
    """Yields the outputs of the input rows `start` to `end` - 1 whose numbers are wanted."""
    outputs = [(sample, variant) for sample in range(run.samples) for variant in recipes]
    distinct = list(dict.fromkeys(recipes.values()))
    if wanted:
        for number, (source, index, row) in enumerate(cursor.rows(start, end), start):
            prefixes = {recipe: _prefix(recipe, row.values) for recipe in distinct}
            first = duplicates.get(number)
            refused = "" if first is None else f"near_duplicate of row {_place(run.inputs, first)}"
            for output_id, (sample, name) in enumerate(outputs, number * len(outputs)):
                if output_id in wanted:
                    yield WorkRow(
                        output_id, part, source, index, sample, row.values, row.fault, prefix=prefixes[recipes[name]],
                        variant=name, refused=refused, retry=retry_of(part),
                    )  # fmt: skip


def variant_settings(job: AugmentJob, recipes: Mapping[str, Recipe]) -> dict[str, VariantSettings]:
    """Makes the settings that the rows of one variant have in common, by the name of the variant.

    Raises:
        JobError: a file that the section `quality` names cannot be used.
    """
    check = QualityRules.of(job.quality)
    program = QualityProgram(job.quality.max_tries, tuple(scored_checks(job.quality))) if job.has_programs else None
    return {
        variant.name: VariantSettings(
            recipes[variant.name],
            variant.sampling.model_dump(),
            job.seed,
            job.model.id,
            variant=variant.name,
            reject_truncated=job.quality.reject_truncated,
            check=check,
            program=program,
            has_reasoning=job.has_reasoning,
            prefix_check=EarlyStop(job.quality) if job.quality.stop_early else None,
        )
        for variant in job.variants()
    }


def facts_of(job: AugmentJob, recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Returns facts outside the job that change the outputs, for the fingerprint of the run."""
    facts = revisions_of(job.quality)
    if job.has_reasoning:
        # Runs of before, with the same key, have the thoughts in their texts.
        facts["columns"] = REASONING.name
    if job.classifier is not None:
        from services.models.classifier import classifier_revision  # it imports transformers, which takes seconds

        facts["classifier_revision"] = classifier_revision(job.classifier)
    if any(recipe.rejects_near_duplicates for recipe in recipes.values()):
        from pipelines.inputs.near_duplicates import RULES

        facts["near_duplicates"] = RULES
    if rules := QualityRules.of(job.quality):
        facts |= rules.facts()
    return facts


def near_duplicates_of(reader: InputRows, recipe: Recipe) -> dict[int, int]:
    """Returns the number of the first similar row for each near-duplicate row; reads the whole input."""
    from pipelines.inputs.near_duplicates import find_near_duplicates  # scipy comes with it, which takes a second

    _log.info("comparing %d rows with each other", sum(source.rows for source in reader.inputs))
    return find_near_duplicates(reader, recipe)


def _prefix(recipe: Recipe, values: dict[str, Any] | None) -> str:
    """Returns a key for the beginning of a row's prompt: rows with the same key share it in an engine's prefix cache.

    Variants that differ only in their sampling have the same key. Thousands of rows wait with their keys in memory, so
    a long beginning is replaced by its hash.
    """
    if values is None:
        return ""
    prefix = recipe.prefix(values)
    if len(prefix) > _MAX_PREFIX_CHARACTERS:
        prefix = blake2b(prefix.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return recipe.prompt_hash + prefix


def _place(inputs: list[InputSource], number: int) -> str:
    for source in inputs:
        if number < source.rows:
            return f"{number} of {source.source}"
        number -= source.rows
    raise ValueError(f"the input ends {number} rows before it")


def new_run(
    job: AugmentJob, recipes: Mapping[str, Recipe], inputs: list[InputSource], facts: Mapping[str, str]
) -> RunRecord:
    """Makes run.json of a job, as if its folder were new."""
    resolved = job.model_dump(mode="json")
    listed = {source.source: f"{source.rows} rows, {source.content}" for source in inputs}
    hashes = {name: recipe.prompt_hash for name, recipe in recipes.items()}
    prompt_hash = hashes if job.sweep is not None else hashes[DEFAULT_VARIANT]
    identity = identity_of(resolved, prompt_hash=prompt_hash, inputs=listed, **facts)
    # The values of storage options may be secrets, and run.json is read by many; their names are enough there.
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
        variants=[RunVariant(name=v.name, values=v.values) for v in job.variants() if job.sweep is not None],
        rows_per_shard=job.output.rows_per_shard,
        has_programs=job.has_programs,
        has_reasoning=job.has_reasoning,
        rubrics=_rubrics(recipes),
        versions=versions(),
    )


def _rubrics(recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Returns the text of each judge's prompt, which all variants share, by the name of its generation."""
    recipe = next(iter(recipes.values()))
    return recipe.rubrics if isinstance(recipe, Generations) else {}


def _refuse_shards_of_others(store: ShardStore, run: RunRecord) -> None:
    """Refuses shards without a run.json, unless each of them is a shard of this run: then run.json was only lost."""
    try:
        parts = read_index(store, run).committed
        fault = "rows of it were retried, which run.json alone knows" if any(map(retry_of, parts)) else ""
    except RunError as error:
        parts, fault = set(), f"{error.key}: {error.cause}"
    if fault:
        remedy = "put run.json back from a copy, run the job that wrote the shards, or name another output.path"
        raise RunError("output.path", store.url, f"the folder has shards and no run.json; {fault}", remedy)
    if parts:
        _log.warning("run.json was lost: it is made anew, since this job wrote the %s", plural(len(parts), "shard"))


def _resumed(old: RunRecord, new: RunRecord, url: str) -> RunRecord:
    remedy = "name another output.path, or undo the change"
    if all(change.startswith(_EXTENDABLE) for change in difference(old.identity, new.identity)):
        remedy += "; for new files after the others, or a higher input.limit: --extend"
    refuse_other_job(url, old.identity, new.identity, remedy)
    return new.model_copy(update=kept_fields(old, "segments", "earlier_fingerprints"))


def _extended(old: RunRecord, new: RunRecord, url: str) -> RunRecord:
    changes = [change for change in difference(old.identity, new.identity) if not change.startswith(_EXTENDABLE)]
    if not changes:
        changes = _not_appended(old.inputs, new.inputs)
    if changes:
        cause = "a run can only be extended by rows at the end of its input:" + lines_of(changes)
        raise RunError("--extend", url, cause, "undo the change, and add rows as files that come after the others")
    segments = old.segments if new.rows == old.segments[-1] else [*old.segments, new.rows]
    earlier = [*old.earlier_fingerprints, old.fingerprint] if new.fingerprint != old.fingerprint else []
    return new.model_copy(
        update=kept_fields(old) | {"segments": segments, "earlier_fingerprints": earlier or old.earlier_fingerprints}
    )


def kept_fields(old: RunRecord, *more: str) -> dict[str, Any]:
    """Returns the fields that a resumed run takes from its old record."""
    kept = ("created_at", "model_revision", "ended_at", "last_metrics", "retries", "read_rows", *more)
    return {key: getattr(old, key) for key in kept}


def _not_appended(old: list[InputSource], new: list[InputSource]) -> list[str]:
    """Lists reasons why the input `new` is not the input `old` with rows added at its end."""
    faults = []
    for number, source in enumerate(old):
        other = new[number] if number < len(new) else None
        last = number == len(old) - 1
        if other is None or other.source != source.source or other.content != source.content:
            faults.append(f"{source.source}: changed (rows added inside it too), moved or gone")
        elif other.rows != source.rows and not (last and other.rows > source.rows):
            faults.append(f"{source.source}: {source.rows} -> {other.rows} rows")
    return faults

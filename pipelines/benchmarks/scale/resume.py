"""How long a run with very many shards takes to resume: from the call to the first row that could be handed out."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from pipelines.augmentation.plan import plan_run, work_rows
from pipelines.benchmarks.scale.dry_run import contexts_job, in_fresh_process, write_contexts
from pipelines.benchmarks.scale.simulation import MODEL_RECORD
from pipelines.inputs.reader import InputReader
from pipelines.recipes import all_fields, make_recipes, optional_fields
from pipelines.run_folder import claimed
from schemas.augment import AugmentJob
from schemas.job import parse_job
from schemas.rows import ACCEPTED, STATES, to_batch
from schemas.run import Manifest
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter, read_logged_rows
from services.storage.store import ShardStore, encode_shard, shard_path


@dataclass(frozen=True)
class Resume:
    """Seconds to the first row.

    Attributes:
        indexed_seconds: with index.parquet, as a run leaves it.
        rebuilt_seconds: without it, so that each shard's footer is read.
    """

    shards: int
    indexed_seconds: float
    rebuilt_seconds: float


def resume(shards: int, folder: Path) -> Resume:
    """Fabricates a run of `shards` committed shards with one open one behind them, and resumes it twice.

    Args:
        folder: an empty one; needs about 10 KiB a shard.
    """
    in_fresh_process(_fabricate, shards, folder)
    rebuilt = in_fresh_process(_seconds_to_first_row, folder)
    indexed = in_fresh_process(_seconds_to_first_row, folder)
    return Resume(shards, indexed, rebuilt)


def _job(folder: Path) -> dict:
    return contexts_job(folder / "contexts.parquet", folder / "run", rows_per_shard=1)


def _fabricate(shards: int, folder: Path) -> None:
    """Writes the shards without making them durable one by one, which is what takes long."""
    write_contexts(folder / "contexts.parquet", shards + 1)
    job = parse_job(_job(folder), AugmentJob)
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    run = plan_run(store, job, recipes, reader.inputs, extend=False)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    (Path(job.output.path) / "data").mkdir()
    for shard in range(shards):
        batch = to_batch([{**MODEL_RECORD, "source": run.inputs[0].source, "row_index": shard}])
        manifest = Manifest(
            fingerprint=run.fingerprint, shard=shard, start=shard, end=shard + 1, samples=1, siblings={},
            counts={state: int(state == ACCEPTED) for state in STATES}, prompt_tokens=400, cached_prompt_tokens=0,
            output_tokens=32, accepted_output_tokens=32, started_at=now, finished_at=now, versions=run.versions,
        )  # fmt: skip
        path = Path(job.output.path) / shard_path("data", shard)
        path.write_bytes(encode_shard(pa.Table.from_batches([batch]), manifest))


def _seconds_to_first_row(folder: Path) -> float:
    began = time.monotonic()
    job = parse_job(_job(folder), AugmentJob)
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    with claimed(store, "augment") as lease:
        run = plan_run(store, job, recipes, reader.inputs, extend=False)
        index = read_index(store, run)
        index.save_if_due()
        index.totals()
        list(read_logged_rows(store, run, index.committed))
        writer = ShardWriter(store, run, index, lease, lambda batch: None, lambda manifest: None)
        row = next(work_rows(run, reader, recipes, writer, index.committed))
        seconds = time.monotonic() - began
        writer.close()
    if row.output_id != run.rows - 1:
        raise RuntimeError(f"the first row left is {row.output_id}, and not the last of {run.rows}")
    return seconds

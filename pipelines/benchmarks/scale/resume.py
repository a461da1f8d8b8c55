"""The time to resume a run with very many shards: from the call to the first row that could be handed out."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.augmentation.plan import work_rows
from pipelines.benchmarks.scale.dry_run import call_in_fresh_process
from pipelines.benchmarks.scale.jobs import contexts_job, open_job, write_contexts
from pipelines.benchmarks.scale.simulation import ROW_RECORD
from pipelines.run_folder import claimed
from schemas.rows import ACCEPTED, STATES, to_batch
from schemas.run import Manifest
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter, read_logged_rows
from services.storage.store import encode_shard, shard_path


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
    """Fabricates a run of `shards` committed shards with an open one behind them, and resumes it twice.

    Args:
        folder: an empty folder; needs about 10 KiB for each shard.
    """
    call_in_fresh_process(_fabricate, shards, folder)
    rebuilt = call_in_fresh_process(_seconds_to_first_row, folder)  # it writes the index that the next one reads
    indexed = call_in_fresh_process(_seconds_to_first_row, folder)
    return Resume(shards, indexed, rebuilt)


def _job(folder: Path) -> dict[str, Any]:
    return contexts_job(folder / "contexts.parquet", folder / "run", rows_per_shard=1)


def _fabricate(shards: int, folder: Path) -> None:
    """Writes the shards as plain files: to make each one durable would take long."""
    write_contexts(folder / "contexts.parquet", shards + 1)
    opened = open_job(_job(folder))
    run, run_folder = opened.plan(), Path(opened.job.output.path)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    (run_folder / "data").mkdir()
    for shard in range(shards):
        batch = to_batch([{**ROW_RECORD, "source": run.inputs[0].source, "row_index": shard}])
        manifest = Manifest(
            fingerprint=run.fingerprint, shard=shard, start=shard, end=shard + 1, samples=1, siblings={},
            counts={state: int(state == ACCEPTED) for state in STATES}, prompt_tokens=400, cached_prompt_tokens=0,
            output_tokens=32, accepted_output_tokens=32, started_at=now, finished_at=now, versions=run.versions,
        )  # fmt: skip
        path = run_folder / shard_path("data", shard)
        path.write_bytes(encode_shard(pa.Table.from_batches([batch]), manifest))


def _seconds_to_first_row(folder: Path) -> float:
    """Resumes the run up to its first row, with the steps of `augment`."""
    began = time.monotonic()
    opened = open_job(_job(folder))
    store = opened.store
    with claimed(store, "augment") as lease:
        run = opened.plan()
        index = read_index(store, run)
        index.save_if_due()
        index.totals()
        list(read_logged_rows(store, run, index.committed))
        writer = ShardWriter(store, run, index, lease, lambda batch: None, lambda manifest: None)
        row = next(work_rows(run, opened.reader, opened.recipes, writer, index.committed))
        seconds = time.monotonic() - began
        writer.close()
    if row.output_id != run.rows - 1:
        raise RuntimeError(f"the first row left is {row.output_id}, and not the last of {run.rows}")
    return seconds

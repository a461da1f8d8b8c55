"""A whole job without engines: the real reader, planner, coordinator and writer, over replicas on a virtual clock.

Each run is made in a fresh process, so that its memory is its own.
"""

import multiprocessing
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipelines.augmentation.plan import work_rows
from pipelines.benchmarks.scale.jobs import contexts_job, open_job, write_contexts
from pipelines.benchmarks.scale.simulation import SimulatedPool
from services.engines.fake_engine import LatencyModel
from services.replicas.coordinator import Coordinator
from services.replicas.row_records import VariantSettings
from services.storage.lease import hold_lease
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter

# Words of a p3 prompt, which the fake engine counts as tokens.
_PROMPT_TOKENS = 400

Value = TypeVar("Value")


@dataclass(frozen=True)
class DryRun:
    """Figures of one dry run.

    Attributes:
        efficiency: time that ideal replicas would take, divided by the time that the run took.
        coordinator_seconds: processor time of the coordinator's thread, that of the simulation included.
        peak_mib: largest resident memory of the process.
    """

    replicas: int
    rows: int
    virtual_seconds: float
    efficiency: float
    coordinator_seconds: float
    peak_mib: float


def dry_run(replicas: int, rows: int, latency: LatencyModel, driver_seconds_per_row: float) -> DryRun:
    """Simulates a job, in a process of its own.

    Args:
        latency: model of each engine.
        driver_seconds_per_row: time that the driver needs for a row, as measured with real replicas.
    """
    return call_in_fresh_process(_dry_run, replicas, rows, latency, driver_seconds_per_row)


def call_in_fresh_process(function: Callable[..., Value], *arguments: Any) -> Value:
    """Calls a function in a process that did nothing before; returns its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _dry_run(replicas: int, rows: int, latency: LatencyModel, driver_seconds_per_row: float) -> DryRun:
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
        source = Path(scratch) / "contexts.parquet"
        write_contexts(source, rows)
        opened = open_job(contexts_job(source, Path(scratch) / "run", rows_per_shard=4096))
        job, store, run = opened.job, opened.store, opened.plan()
        pool = SimulatedPool(replicas, latency, _PROMPT_TOKENS, driver_seconds_per_row)
        variants = {
            name: VariantSettings(recipe, job.sampling.model_dump(), job.seed, job.model.id)
            for name, recipe in opened.recipes.items()
        }
        with hold_lease(store) as lease:
            writer = ShardWriter(store, run, read_index(store, run), lease, lambda batch: None, lambda manifest: None)
            planned = work_rows(run, opened.reader, opened.recipes, writer, set())

            def stop_within() -> float | None:
                return None if writer.error is None else 0.0  # a writer that failed takes no more rows

            coordinator = Coordinator(pool, variants, planned, rows, writer.put, stop_within, lambda member: None)
            coordinator.run()
            writer.close()
        if writer.error is not None:
            raise writer.error
        counts = read_index(store, run).totals().outcomes.counts
        if counts["accepted"] != rows:
            raise RuntimeError(f"of {rows} rows these arrived on disk: {counts}")
    return DryRun(
        replicas=replicas,
        rows=rows,
        virtual_seconds=pool.now,
        efficiency=pool.ideal_seconds / pool.now,
        coordinator_seconds=coordinator.cpu_seconds,
        peak_mib=_peak_mib(),
    )


def _peak_mib() -> float:
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) / 1024

"""`kindling bench scale`: efficiency as replicas are added, and the driver's cost with very many rows.

Up to 16 replicas are real Ray actors with fake engines. Up to 256 are simulated: the same coordinator, planner and
writer run over a simulation of the actors. The simulation is trusted because it agrees with the real actors where both
can run.
"""

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.augmentation.augment import augment
from pipelines.benchmarks.report import Goal, conclude
from pipelines.benchmarks.scale.dry_run import DryRun, dry_run
from pipelines.benchmarks.scale.jobs import contexts_job, write_contexts
from pipelines.benchmarks.scale.resume import Resume, resume
from pipelines.benchmarks.scale.simulation import IdealPool
from schemas.job import Cluster, Model
from services.engines.fake_engine import LatencyModel
from services.replicas import warm_pool
from services.storage.store import ShardStore

# An engine that runs 256 requests at once and takes 2 to 15 s for each, about 30 rows a second: a large GPU with a 7B
# model and short stories.
ENGINE: dict[str, Any] = {"max_num_seqs": 256, "step_seconds": 0.24}
REAL = (1, 4, 16)
SIMULATED = (1, 4, 16, 64, 256)
_FEW_ROWS = 10_000
_MIN_EFFICIENCY = 0.98
_MAX_DISAGREEMENT = 0.02
_MAX_MICROSECONDS_PER_ROW = 50
_MAX_GROWTH = 1.25
_MAX_RESUME_SECONDS = 5.0

_console = Console(stderr=True)


@dataclass(frozen=True)
class RealRun:
    """Figures of a run with real actors and fake engines.

    Attributes:
        efficiency: time that ideal replicas would take, divided by the time that the run took.
        coordinator_seconds: processor time of the driver's thread that hands rows out and takes them back.
        writer_seconds: processor time of the driver's thread that logs and commits rows.
    """

    replicas: int
    rows: int
    seconds: float
    efficiency: float
    coordinator_seconds: float
    writer_seconds: float

    @property
    def driver_seconds(self) -> float:
        """Processor time of both threads; Python runs only one of them at a time."""
        return self.coordinator_seconds + self.writer_seconds


def measure(rows: int, shards: int, rows_per_replica: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        rows: number of rows in the largest simulated run, whose memory is compared with that of 10,000 rows.
        shards: number of shards in the run that is resumed.
        rows_per_replica: rows for each replica in the runs whose efficiency is measured. A run must be long beside a
            single row, or only its first and last seconds are measured.
    """
    real = [_real_run(replicas, replicas * rows_per_replica) for replicas in REAL]
    driver_seconds_per_row = real[-1].driver_seconds / real[-1].rows
    simulated = [
        _simulated_run(replicas, replicas * rows_per_replica, driver_seconds_per_row) for replicas in SIMULATED
    ]
    # One replica: the rows that wait for many replicas are more than 10,000, so the small run would never fill them.
    sizes = [_simulated_run(1, number, driver_seconds_per_row) for number in (_FEW_ROWS, rows)]
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder:
        resumed = resume(shards, Path(folder))
    _print_table(real, simulated, sizes)
    samples = {
        "real": [asdict(run) for run in real],
        "simulated": [asdict(run) for run in simulated],
        "memory": [asdict(run) for run in sizes],
        "resume": asdict(resumed),
    }
    settings = {
        "engine": ENGINE,
        "rows_per_replica": rows_per_replica,
        "driver_seconds_per_row": driver_seconds_per_row,
    }
    return conclude("scale", settings, samples, _goals(real, simulated, sizes, resumed))


def _goals(real: list[RealRun], simulated: list[DryRun], sizes: list[DryRun], resumed: Resume) -> list[Goal]:
    largest_real, (small, large) = real[-1], sizes
    return [
        *(Goal(f"efficiency of {run.replicas} replicas", run.efficiency, _MIN_EFFICIENCY) for run in real),
        *(
            Goal(f"efficiency of {run.replicas} replicas, simulated", run.efficiency, _MIN_EFFICIENCY)
            for run in simulated
            if run.replicas not in REAL
        ),
        *(
            Goal(f"simulation / real - 1 at {run.replicas} replicas", abs(dry.efficiency / run.efficiency - 1),
                 _MAX_DISAGREEMENT, at_least=False)
            for run, dry in zip(real, simulated, strict=False)
        ),
        Goal("coordinator, microseconds a row, 16 replicas",
             largest_real.coordinator_seconds / largest_real.rows * 1e6, _MAX_MICROSECONDS_PER_ROW, at_least=False),
        Goal(f"memory of {large.rows} rows / of {small.rows}", large.peak_mib / small.peak_mib, _MAX_GROWTH,
             at_least=False),
        Goal(f"seconds to resume {resumed.shards} shards", resumed.indexed_seconds, _MAX_RESUME_SECONDS,
             at_least=False),
    ]  # fmt: skip


def _real_run(replicas: int, rows: int) -> RealRun:
    """Runs `augment` on a warm pool, so that the start of its actors is not counted."""
    import ray

    ray.init("local", num_cpus=max(REAL), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        warm_pool.start_pool("scale", Model(id="fake"), ENGINE, Cluster(replicas=replicas), idle_seconds=3600)
        with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
            source, folder = Path(scratch) / "contexts.parquet", Path(scratch) / "run"
            write_contexts(source, rows)
            summary = augment(contexts_job(source, folder, rows_per_shard=512, engine=ENGINE))
            ideal_seconds = _ideal_seconds(ShardStore(str(folder)), replicas)
    finally:
        ray.shutdown()
    efficiency = ideal_seconds / summary.serving_seconds
    _console.print(f"{replicas} replicas, {rows} rows: efficiency {efficiency:.4f}")
    return RealRun(
        replicas, rows, summary.serving_seconds, efficiency, summary.coordinator_seconds, summary.writer_seconds
    )


def _ideal_seconds(store: ShardStore, replicas: int) -> float:
    """Returns the time of a run whose rows take what the latency model says, and in which nothing else takes time."""
    latency = LatencyModel(**ENGINE)
    ideal = IdealPool(replicas * latency.max_num_seqs)
    for batch in store.read_rows(columns=["prompt_tokens", "output_tokens"]):
        for row in batch.to_pylist():
            ideal.run(latency.request_seconds(**row))
    return ideal.seconds


def _simulated_run(replicas: int, rows: int, driver_seconds_per_row: float) -> DryRun:
    run = dry_run(replicas, rows, LatencyModel(**ENGINE), driver_seconds_per_row)
    _console.print(f"{replicas} replicas, {rows} rows, simulated: efficiency {run.efficiency:.4f}")
    return run


def _print_table(real: list[RealRun], simulated: list[DryRun], sizes: list[DryRun]) -> None:
    table = Table("replicas", "rows", "engines", "efficiency", "driver, us a row", "coordinator, us a row", "peak MiB")
    for run in real:
        table.add_row(
            str(run.replicas), str(run.rows), "fake, real actors", f"{run.efficiency:.4f}",
            f"{run.driver_seconds / run.rows * 1e6:.0f}", f"{run.coordinator_seconds / run.rows * 1e6:.0f}", "",
        )  # fmt: skip
    for dry in [*simulated, *sizes]:
        table.add_row(
            str(dry.replicas), str(dry.rows), "simulated", f"{dry.efficiency:.4f}", "", "", f"{dry.peak_mib:.0f}"
        )
    Console(width=120).print(table)

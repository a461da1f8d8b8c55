"""`kindling bench scale`: whether replicas are added without loss, and whether the driver bears very many rows.

Real Ray actors round fake engines, up to 16, and the same coordinator, planner and writer over a simulation of them up
to 256, which is believed because it agrees with the real ones where both can run.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.augmentation.augment import augment
from pipelines.benchmarks.report import Goal, conclude
from pipelines.benchmarks.scale.dry_run import DryRun, contexts_job, dry_run, write_contexts
from pipelines.benchmarks.scale.resume import resume
from pipelines.benchmarks.scale.simulation import IdealPool
from schemas.job import Cluster, Model
from services.engines.fake_engine import LatencyModel
from services.replicas import warm_pool
from services.storage.store import ShardStore

# An engine that runs 256 requests at once and takes 2 to 15 s for each, about 30 rows a second: a large GPU with a 7B
# model and short stories.
ENGINE = {"max_num_seqs": 256, "step_seconds": 0.24}
REAL = (1, 4, 16)
SIMULATED = (1, 4, 16, 64, 256)
_FEW_ROWS = 10_000
_LEAST_EFFICIENCY = 0.98
_MOST_DISAGREEMENT = 0.02
_MOST_MICROSECONDS_PER_ROW = 50
_MOST_GROWTH = 1.25
_MOST_RESUME_SECONDS = 5.0

_console = Console(stderr=True)


@dataclass(frozen=True)
class RealRun:
    """Real actors on fake engines. The last two are processor time of the driver's two Python threads."""

    replicas: int
    rows: int
    seconds: float
    efficiency: float
    coordinator_seconds: float
    writer_seconds: float

    @property
    def driver_seconds(self) -> float:
        """Both threads: only one of them runs at a time."""
        return self.coordinator_seconds + self.writer_seconds


def measure(rows: int, shards: int, rows_per_replica: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        rows: of the largest simulated run, whose memory is compared with that of 10,000 rows.
        shards: of the run that is resumed.
        rows_per_replica: of the runs whose efficiency is measured; they must be long beside a single row, or their
            first and last seconds are what is measured.
    """
    real = [_real_run(replicas, replicas * rows_per_replica) for replicas in REAL]
    cost = real[-1].driver_seconds / real[-1].rows
    simulated = [_told(dry_run(replicas, replicas * rows_per_replica, ENGINE, cost)) for replicas in SIMULATED]
    # One replica: what waits to be dispatched to many is more than the fewer rows are, and those never fill it.
    sizes = [_told(dry_run(1, number, ENGINE, cost)) for number in (_FEW_ROWS, rows)]
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder:
        resumed = resume(shards, Path(folder))
    _print_table(real, simulated, sizes)
    samples = {
        "real": [asdict(run) for run in real],
        "simulated": [asdict(run) for run in simulated],
        "memory": [asdict(run) for run in sizes],
        "resume": asdict(resumed),
    }
    settings = {"engine": ENGINE, "rows_per_replica": rows_per_replica, "driver_seconds_per_row": cost}
    goals = [
        *(Goal(f"efficiency of {run.replicas} replicas", run.efficiency, _LEAST_EFFICIENCY) for run in real),
        *(
            Goal(f"efficiency of {run.replicas} replicas, simulated", run.efficiency, _LEAST_EFFICIENCY)
            for run in simulated
            if run.replicas not in REAL
        ),
        *(
            Goal(f"simulation / real - 1 at {run.replicas} replicas", abs(dry.efficiency / run.efficiency - 1),
                 _MOST_DISAGREEMENT, at_least=False)
            for run, dry in zip(real, simulated, strict=False)
        ),
        Goal("coordinator, microseconds a row, 16 replicas", real[-1].coordinator_seconds / real[-1].rows * 1e6,
             _MOST_MICROSECONDS_PER_ROW, at_least=False),
        Goal(f"memory of {rows} rows / of {_FEW_ROWS}", sizes[1].peak_mib / sizes[0].peak_mib, _MOST_GROWTH,
             at_least=False),
        Goal(f"seconds to resume {shards} shards", resumed.indexed_seconds, _MOST_RESUME_SECONDS, at_least=False),
    ]  # fmt: skip
    return conclude("scale", settings, samples, goals)


def _real_run(replicas: int, rows: int) -> RealRun:
    """`augment` on a warm pool, so that the start of its actors is not counted."""
    import ray

    ray.init("local", num_cpus=max(REAL), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        warm_pool.start_pool("scale", Model(id="fake"), ENGINE, Cluster(replicas=replicas), idle_seconds=3600)
        with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
            source, folder = Path(scratch) / "contexts.parquet", Path(scratch) / "run"
            write_contexts(source, rows)
            summary = augment(contexts_job(source, folder, rows_per_shard=512, engine=ENGINE))
            store = ShardStore(str(folder))
            ideal = _ideal_seconds(store, replicas)
    finally:
        ray.shutdown()
    efficiency = ideal / summary.serving_seconds
    run = RealRun(
        replicas, rows, summary.serving_seconds, efficiency, summary.coordinator_seconds, summary.writer_seconds
    )
    _console.print(f"{replicas} replicas, {rows} rows: efficiency {efficiency:.4f}")
    return run


def _ideal_seconds(store: ShardStore, replicas: int) -> float:
    """What the rows of a run would take if they took what the latency model says, and nothing else took any time."""
    latency = LatencyModel(**ENGINE)
    ideal = IdealPool(replicas * latency.max_num_seqs)
    for batch in store.read_rows(columns=["prompt_tokens", "output_tokens"]):
        for row in batch.to_pylist():
            ideal.run(latency.request_seconds(**row))
    return ideal.seconds


def _told(run: DryRun) -> DryRun:
    _console.print(f"{run.replicas} replicas, {run.rows} rows, simulated: efficiency {run.efficiency:.4f}")
    return run


def _print_table(real: list[RealRun], simulated: list[DryRun], sizes: list[DryRun]) -> None:
    table = Table("replicas", "rows", "engines", "efficiency", "driver, us a row", "coordinator, us a row", "peak MiB")
    for run in real:
        table.add_row(
            str(run.replicas), str(run.rows), "fake, real actors", f"{run.efficiency:.4f}",
            f"{run.driver_seconds / run.rows * 1e6:.0f}", f"{run.coordinator_seconds / run.rows * 1e6:.0f}", "",
        )  # fmt: skip
    for run in [*simulated, *sizes]:
        table.add_row(
            str(run.replicas), str(run.rows), "simulated", f"{run.efficiency:.4f}", "", "", f"{run.peak_mib:.0f}"
        )
    Console(width=120).print(table)

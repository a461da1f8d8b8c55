"""A whole job without engines: the real reader, planner, coordinator and writer, over replicas on a virtual clock.

Each run is made in a fresh process, so that its memory is its own.
"""

import multiprocessing
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.augmentation.plan import plan_run, work_rows
from pipelines.benchmarks.scale.simulation import SimulatedPool
from pipelines.inputs.reader import InputReader
from pipelines.recipes import all_fields, make_recipes, optional_fields
from schemas.augment import AugmentJob
from schemas.emotions import EMOTIONS
from schemas.job import parse_job
from services.engines.fake_engine import LatencyModel
from services.replicas.coordinator import Coordinator
from services.replicas.row_records import VariantSettings
from services.storage.lease import hold_lease
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore

_ROW_GROUP = 8192


@dataclass(frozen=True)
class DryRun:
    """What a dry run came to.

    Attributes:
        efficiency: the time that ideal replicas would take, over the time that it took.
        coordinator_seconds: processor time of the coordinator's thread, the simulation itself included.
        peak_mib: most memory that the process had resident.
    """

    replicas: int
    rows: int
    virtual_seconds: float
    efficiency: float
    coordinator_seconds: float
    peak_mib: float


def dry_run(replicas: int, rows: int, engine: dict[str, Any], driver_seconds_per_row: float) -> DryRun:
    """Simulates a job of so many rows, in a process of its own.

    Args:
        engine: keys of `services.engines.fake_engine.LatencyModel`.
        driver_seconds_per_row: what a row costs the driver, as measured with real replicas.
    """
    return in_fresh_process(_dry_run, replicas, rows, engine, driver_seconds_per_row)


def in_fresh_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result, from a process that did nothing before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def write_contexts(path: Path, rows: int) -> None:
    """An input of so many short sentences, each with one of the 28 emotions."""
    names = sorted(EMOTIONS)
    schema = pa.schema([("context", pa.string()), ("emotion", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _ROW_GROUP):
            numbers = range(start, min(start + _ROW_GROUP, rows))
            contexts = [f"The boat number {number} drifts down a quiet river." for number in numbers]
            emotions = [names[number * 13 % len(names)] for number in numbers]
            writer.write_table(pa.table([contexts, emotions], schema=schema))


def contexts_job(source: Path, folder: Path, rows_per_shard: int, **sections: Any) -> dict[str, Any]:
    """A job over `write_contexts` on the fake engine."""
    return {
        "name": "scale",
        "input": {"path": str(source)},
        "recipe": "babylm_story",
        "model": {"id": "fake"},
        "output": {"path": str(folder), "rows_per_shard": rows_per_shard},
        "metrics": {"port": None},
        **sections,
    }


def _dry_run(replicas: int, rows: int, engine: dict[str, Any], driver_seconds_per_row: float) -> DryRun:
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, ExitStack() as held:
        source = Path(scratch) / "contexts.parquet"
        write_contexts(source, rows)
        job = parse_job(contexts_job(source, Path(scratch) / "run", rows_per_shard=4096, engine=engine), AugmentJob)
        recipes = make_recipes(job)
        reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
        store = ShardStore(job.output.path)
        run = plan_run(store, job, recipes, reader.inputs, extend=False)
        index = read_index(store, run)
        lease = held.enter_context(hold_lease(store))
        writer = ShardWriter(store, run, index, lease, lambda batch: None, lambda manifest: None)
        pool = SimulatedPool(replicas, LatencyModel(**engine), _PROMPT_TOKENS, driver_seconds_per_row)
        sampling = job.sampling.model_dump()
        variants = {name: VariantSettings(recipe, sampling, job.seed, job.model.id) for name, recipe in recipes.items()}
        planned = work_rows(run, reader, recipes, writer, set())
        coordinator = Coordinator(pool, variants, planned, rows, writer.put, _not_stopped(writer), lambda member: None)
        coordinator.run()
        writer.close()
        if writer.error is not None:
            raise writer.error
        _check(store, rows)
    return DryRun(
        replicas=replicas,
        rows=rows,
        virtual_seconds=pool.now,
        efficiency=pool.ideal_seconds / pool.now,
        coordinator_seconds=coordinator.cpu_seconds,
        peak_mib=_peak_mib(),
    )


# Words of a p3 prompt, which the fake engine counts as tokens.
_PROMPT_TOKENS = 400


def _not_stopped(writer: ShardWriter) -> Callable[[], float | None]:
    return lambda: None if writer.error is None else 0.0


def _peak_mib() -> float:
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _check(store: ShardStore, rows: int) -> None:
    run = store.read_run()
    counts = read_index(store, run).totals().counts
    if counts["accepted"] != rows:
        raise RuntimeError(f"of {rows} rows these arrived on disk: {counts}")

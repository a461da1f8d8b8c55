"""The arms of the throughput benchmarks: Kindling itself, and the baselines, each in a process of its own.

An arm is started once and serves many workloads, so that no clock counts the start of an engine. Ray Data starts an
engine with each execution, so its process is started for each run.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

from pipelines.augmentation.augment import augment
from pipelines.benchmarks.throughput.processor_time import processor_seconds
from pipelines.benchmarks.throughput.worker import Result, sum_rows
from pipelines.benchmarks.throughput.workloads import WorkloadFiles
from schemas.errors import EngineError
from schemas.job import Cluster, Model, Seeds
from schemas.rows import ACCEPTED, FOLDER_OF_STATE
from services.replicas import warm_pool

EMBEDDED = Model()
# Small, so that commits happen while the engine works, as they do in a long run.
_ROWS_PER_SHARD = 64
_LOG_LINES = 30
_COLUMNS = [
    "state", "prompt_tokens", "cached_prompt_tokens", "output_tokens", "finish_reason", "started_at",
    "duration_seconds",
]  # fmt: skip


@dataclass(frozen=True)
class KindlingResult(Result):
    """Figures of one run of Kindling; `seconds` ends when the last shard is durable.

    Attributes:
        generating_seconds: from the start of the first request to the end of the last one, without the disk's time.
    """

    generating_seconds: float


class Kindling:
    """`augment` on a warm pool of one replica that computes on all cores.

    Must be used inside `services.cluster.connect_to_ray`.

    Args:
        scraped: whether each run has a metrics endpoint, which is read every second.
    """

    def __init__(
        self, engine: dict[str, Any], cores: list[int], model: Model = EMBEDDED, scraped: bool = False
    ) -> None:
        self._engine, self._model, self._scraped = engine, model, scraped
        self._cluster = Cluster(replicas=1, cpus_per_replica=len(cores))
        warm_pool.start_pool("bench", model, engine, self._cluster, idle_seconds=24 * 3600)

    def run(self, files: WorkloadFiles, folder: Path) -> KindlingResult:
        """Serves a workload into a new run folder.

        The clock runs from the moment when the engine is there for the job until the last shard is durable. The prefix
        cache is empty at the start.
        """
        (replica,) = warm_pool.find_pool(self._model, self._engine)[1]
        if not ray.get(replica.reset_prefix_cache.remote()):
            raise EngineError("bench", None, "the engine did not empty its prefix cache", "leave its pool to the bench")
        ray.get(replica.start.remote())
        job = {
            **self._job(files.workload.name, files.rows, folder),
            "recipe": files.workload.recipe,
            "prompt": files.workload.prompt,
            "sampling": files.workload.sampling,
            "output": {"path": str(folder), "rows_per_shard": _ROWS_PER_SHARD},
            "metrics": {"port": 0 if self._scraped else None, "targets": None},
        }
        with _scraper(folder) if self._scraped else contextlib.nullcontext(), processor_seconds() as processors:
            summary = augment(job)
        result, generating_seconds = _read(folder, summary.serving_seconds)
        return KindlingResult(
            **{**vars(result), "processor_seconds": processors}, generating_seconds=generating_seconds
        )

    def seconds_to_first_row(self, folder: Path) -> float:
        """Measures from the start of a `kindling augment` process until its first row is finished.

        Nothing is imported yet when the clock starts.
        """
        folder.mkdir()
        rows, prompt = folder / "rows.jsonl", folder / "prompt.jinja"
        rows.write_text('{"text": "Say hello."}\n')
        prompt.write_text("{{ text }}")
        job = self._job("first", rows, folder / "run")
        job |= {"recipe": "template", "prompt": str(prompt), "sampling": {"max_tokens": 8}}
        job["cluster"]["address"] = ray.get_runtime_context().gcs_address
        (folder / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
        command = [sys.executable, "-m", "pipelines", "augment", str(folder / "job.yaml")]
        began = datetime.now(UTC)
        subprocess.run(command, check=True, capture_output=True)
        (row,) = pq.read_table(folder / "run" / "data").to_pylist()
        return (row["started_at"] - began).total_seconds() + row["duration_seconds"]

    def close(self) -> None:
        """Ends the pool."""
        warm_pool.stop_pool("bench")

    def _job(self, name: str, rows: Path, folder: Path) -> dict[str, Any]:
        """Returns the sections that all jobs of this arm share."""
        return {
            "name": name,
            "input": {"path": str(rows)},
            "model": self._model.model_dump(),
            "engine": self._engine,
            "cluster": self._cluster.model_dump(),
            "output": {"path": str(folder)},
            "metrics": {"port": None},
        }


class Baseline:
    """A worker process (see `worker`) that serves the same requests without Kindling.

    Args:
        seeds: random numbers that its requests use, as in a job file.
    """

    def __init__(
        self, module: str, engine: dict[str, Any], cores: list[int], folder: Path, model: Model = EMBEDDED,
        seeds: Seeds = "row",
    ) -> None:  # fmt: skip
        self._module, self._log = module, folder / f"{module}.log"
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as spec:
            json.dump({"engine": engine, "cores": cores, "model": model.model_dump(), "seeds": seeds}, spec)
        command = [sys.executable, "-m", f"pipelines.benchmarks.throughput.{module}", spec.name]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._wait_for("READY")
        Path(spec.name).unlink()

    def run(self, arm: str, files: WorkloadFiles, folder: Path, **options: int) -> Result:
        """Serves a workload into a new folder; `options` are further keys of the worker's order."""
        order = {"arm": arm, "requests": str(files.requests), "output": str(folder), **options}
        with processor_seconds() as processors:
            self._orders.write(json.dumps(order) + "\n")
            self._orders.flush()
            result = Result(**json.loads(self._wait_for("RESULT")))
        return replace(result, processor_seconds=processors)

    def close(self) -> None:
        """Lets the process end."""
        self._orders.close()
        self._process.wait()

    def _wait_for(self, word: str) -> str:
        """Returns what follows the word on the next line that begins with it."""
        for line in self._answers:
            if line.startswith(word):
                return line.removeprefix(word)
        last_lines = "".join(self._log.read_text(errors="replace").splitlines(keepends=True)[-_LOG_LINES:])
        raise EngineError(
            "bench", self._module, "the baseline's process died", f"see the last lines of its log:\n{last_lines}"
        )


@contextlib.contextmanager
def _scraper(run: Path) -> Iterator[None]:
    """Reads the metrics of a run while the block runs; in a process of its own, as Prometheus is."""
    scraper = subprocess.Popen([sys.executable, "-m", "pipelines.benchmarks.throughput.scraper", str(run)])
    try:
        yield
    finally:
        scraper.kill()
        scraper.wait()


def _read(run: Path, seconds: float) -> tuple[Result, float]:
    """Reads the rows of a run; the second value is the time from its first request's start to its last one's end.

    Raises:
        EngineError: rows were rejected or failed.
    """
    files = [file for folder in FOLDER_OF_STATE.values() for file in (run / folder).glob("*.parquet")]
    rows = pq.read_table(files, columns=_COLUMNS).to_pydict()
    states = Counter(rows["state"])
    if states != {ACCEPTED: len(rows["state"])}:
        raise EngineError("bench", str(run), f"not all rows were accepted: {dict(states)}", "see errors/ in that run")
    ends = [
        start + timedelta(seconds=duration)
        for start, duration in zip(rows["started_at"], rows["duration_seconds"], strict=True)
    ]
    result = sum_rows(
        seconds, sum(rows["prompt_tokens"]), sum(rows["cached_prompt_tokens"]), rows["output_tokens"],
        rows["finish_reason"],
    )  # fmt: skip
    return result, (max(ends) - min(rows["started_at"])).total_seconds()

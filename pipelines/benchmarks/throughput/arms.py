"""The arms of the throughput benchmark: Kindling itself, and the baselines, each in a process of its own.

An arm is started once and asked again and again, so that engine start-up is nobody's time. Ray Data starts an engine
with each execution, so its process comes and goes.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipelines.augmentation.augment import augment
from pipelines.benchmarks.throughput.worker import Result, result
from pipelines.benchmarks.throughput.workloads import Workload
from schemas.errors import EngineError
from schemas.job import Cluster, Model
from schemas.rows import ACCEPTED, FOLDER_OF_STATE
from services.replicas import warm_pool

EMBEDDED = Model()
# Small, so that commits happen while the engine works, as they do in a long run.
_ROWS_PER_SHARD = 64
_LOG_LINES = 30


class Kindling:
    """`augment` on a warm pool of one replica that computes on all cores.

    Must be used inside `services.cluster.connect_to_ray`.
    """

    def __init__(self, engine: dict[str, Any], cores: list[int], model: Model = EMBEDDED) -> None:
        self._engine, self._model = engine, model
        self._cluster = {"replicas": 1, "cpus_per_replica": len(cores)}
        warm_pool.start_pool("bench", model, engine, Cluster(**self._cluster), idle_seconds=24 * 3600)

    def run(self, workload: Workload, source: Path, folder: Path) -> Result:
        """Serves a workload whose rows lie in `source` into a run folder.

        The clock runs from the moment that the engine is there for the job until the last shard is durable. The prefix
        cache is empty at the start.
        """
        (replica,) = warm_pool.find_pool(self._model, self._engine)[1]
        if not ray.get(replica.reset_prefix_cache.remote()):
            raise EngineError("bench", None, "the engine did not empty its prefix cache", "leave its pool to the bench")
        job = {
            "name": workload.name,
            "input": {"path": str(source)},
            "recipe": workload.recipe,
            "prompt": workload.prompt,
            "model": self._model.model_dump(),
            "sampling": workload.sampling,
            "engine": self._engine,
            "cluster": self._cluster,
            "output": {"path": str(folder), "rows_per_shard": _ROWS_PER_SHARD},
            "metrics": {"port": None},
        }
        summary = augment(job)
        return _read(folder, summary.serving_seconds)

    def seconds_to_first_row(self, folder: Path) -> float:
        """From the start of a `kindling augment` process, nothing imported yet, until its first row is finished."""
        folder.mkdir()
        (folder / "rows.jsonl").write_text('{"text": "Say hello."}\n')
        (folder / "prompt.jinja").write_text("{{ text }}")
        job = {
            "name": "first",
            "input": {"path": str(folder / "rows.jsonl")},
            "recipe": "template",
            "prompt": str(folder / "prompt.jinja"),
            "model": self._model.model_dump(),
            "sampling": {"max_tokens": 8},
            "engine": self._engine,
            "cluster": {**self._cluster, "address": ray.get_runtime_context().gcs_address},
            "output": {"path": str(folder / "run")},
            "metrics": {"port": None},
        }
        (folder / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
        command = [sys.executable, "-m", "pipelines", "augment", str(folder / "job.yaml")]
        began = datetime.now(UTC)
        subprocess.run(command, check=True, capture_output=True)
        (row,) = pq.read_table(folder / "run" / "data").to_pylist()
        return (row["started_at"] - began).total_seconds() + row["duration_seconds"]

    def close(self) -> None:
        """Ends the pool."""
        warm_pool.stop_pool("bench")


class Baseline:
    """A worker process (see `worker`) that serves the same requests without us."""

    def __init__(
        self, module: str, engine: dict[str, Any], cores: list[int], log: Path, model: Model = EMBEDDED
    ) -> None:
        self._log = log
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as spec:
            json.dump({"engine": engine, "cores": cores, "model": model.model_dump()}, spec)
        command = [sys.executable, "-m", f"pipelines.benchmarks.throughput.{module}", spec.name]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._heard("READY")
        Path(spec.name).unlink()

    def run(self, arm: str, requests: Path, folder: Path, **further: Any) -> Result:
        """Serves a file that `Workload.write_requests` wrote."""
        order = {"arm": arm, "workload": str(requests), "output": str(folder), **further}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._heard("RESULT")
        return Result(**{name: answer[name] for name in Result.__dataclass_fields__})

    def close(self) -> None:
        """Lets the process end."""
        self._process.stdin.close()
        self._process.wait()

    def _heard(self, word: str) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith(word):
                return json.loads(line.removeprefix(word))
        last = "".join(self._log.read_text(errors="replace").splitlines(keepends=True)[-_LOG_LINES:])
        raise EngineError(
            "bench", self._process.args[2], "the baseline's process died", f"its log's last lines:\n{last}"
        )


def _read(folder: Path, seconds: float) -> Result:
    names = ["state", "prompt_tokens", "cached_prompt_tokens", "output_tokens", "finish_reason"]
    files = [file for each in FOLDER_OF_STATE.values() for file in (folder / each).glob("*.parquet")]
    rows = pq.read_table(files, columns=names)
    states = Counter(rows["state"].to_pylist())
    if states != {ACCEPTED: rows.num_rows}:
        raise EngineError(
            "bench", str(folder), f"not all rows were accepted: {dict(states)}", "see errors/ in that run"
        )
    return result(
        seconds,
        pc.sum(rows["prompt_tokens"]).as_py(),
        pc.sum(rows["cached_prompt_tokens"]).as_py(),
        rows["output_tokens"].to_pylist(),
        rows["finish_reason"].to_pylist(),
    )

"""`kindling bench determinism`: the same job once more, in other circumstances, and how many texts are the same.

The model: each row has its own seed, so only arithmetic can differ. An engine adds up numbers in an order that depends
on the requests that run beside each other, and sums of floating-point numbers depend on their order. The job is run a
first time, and then

    again          with nothing changed
    replicas       on two replicas instead of one, each with as many cores
    order          with a quarter of the requests in flight, so that rows meet other rows
    after a crash  with its driver killed by SIGKILL in the middle, and the same command given again

each sampled (temperature 0.9) and greedy (temperature 0). On a machine with a GPU all of that is repeated in vLLM's
batch-invariant mode. There are no goals: the bench only reports the shares.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.augmentation.augment import augment
from pipelines.benchmarks.report import conclude
from pipelines.run_status.augment import count_finished
from schemas.errors import KindlingError, RunError
from schemas.job import Cluster, Model
from services.cluster import connect_to_ray
from services.replicas import warm_pool
from services.storage.store import ShardStore

Texts = dict[tuple[int, int], str]
"""text by input row and sample"""

_TEMPERATURES = {"sampled": 0.9, "greedy": 0.0}
_REQUESTS, _FEW_REQUESTS = 16, 4
# https://docs.vllm.ai/en/latest/features/batch_invariance/
_BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
_ROWS_PER_SHARD = 8
_MAX_WAIT_SECONDS = 600.0

_console = Console(stderr=True)


def measure(rows: int, samples: int, max_tokens: int) -> bool:
    """Measures and prints; returns True, as there are no goals.

    Args:
        rows: number of input rows: the first ones of the demo's corpus.
        samples: number of outputs for each row.
        max_tokens: largest number of tokens in an output.
    """
    same: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
        corpus = (files("pipelines") / "data" / "demo_corpus.jsonl").read_text(encoding="utf-8").splitlines()
        (Path(scratch) / "rows.jsonl").write_text("\n".join(corpus[:rows]), encoding="utf-8")
        for mode in ["as it is", "batch-invariant"] if _count_gpus() else ["as it is"]:
            with _own_ray(mode):
                comparison = Comparison(Path(scratch) / mode.replace(" ", "-"), samples, max_tokens)
                comparison.run(Path(scratch) / "rows.jsonl")
                same[mode] = comparison.same()
    _print_table(same, len(corpus[:rows]) * samples)
    settings = {
        "rows": rows, "samples": samples, "max_tokens": max_tokens, "temperatures": _TEMPERATURES,
        "gpus": _count_gpus(), "requests": _REQUESTS, "few_requests": _FEW_REQUESTS,
    }  # fmt: skip
    return conclude("determinism", settings, same, [])


class Comparison:
    """The runs of one mode, in one folder. Must be used inside `services.cluster.connect_to_ray`."""

    def __init__(self, folder: Path, samples: int, max_tokens: int) -> None:
        self._folder, self._samples, self._max_tokens = folder, samples, max_tokens
        self._texts: dict[str, dict[str, Texts]] = {name: {} for name in _TEMPERATURES}

    def run(self, source: Path) -> None:
        """Runs the job in all circumstances. Circumstances that need the same engine share one pool."""
        self._folder.mkdir()
        with _pool(_REQUESTS, replicas=1) as sections:
            for circumstance in ("first", "again"):
                self._run_job(circumstance, source, sections)
            self._run_job("after a crash", source, sections, crash=True)
        with _pool(_REQUESTS, replicas=2) as sections:
            self._run_job("replicas", source, sections)
        with _pool(_FEW_REQUESTS, replicas=1) as sections:
            self._run_job("order", source, sections)

    def same(self) -> dict[str, dict[str, int]]:
        """Counts the texts that are the same as in the first run, by temperature and circumstance."""
        return {
            name: {
                circumstance: sum(text == texts[output] for output, text in runs["first"].items())
                for circumstance, texts in runs.items()
                if circumstance != "first"
            }
            for name, runs in self._texts.items()
        }

    def _run_job(self, circumstance: str, source: Path, sections: dict[str, Any], crash: bool = False) -> None:
        for name, temperature in _TEMPERATURES.items():
            folder = self._folder / f"{circumstance.replace(' ', '-')}-{name}"
            job = {
                "name": "determinism",
                "input": {"path": str(source), "columns": {"emotion": "emotions"}},
                "recipe": "babylm_story",
                "samples": self._samples,
                "sampling": {"temperature": temperature, "top_p": 0.95, "max_tokens": self._max_tokens},
                "output": {"path": str(folder), "rows_per_shard": _ROWS_PER_SHARD},
                "metrics": {"port": None},
                **sections,
            }
            _reset_prefix_caches(sections)
            if crash:
                _run_until_half(job, folder.with_suffix(".yaml"))
            began = time.monotonic()
            augment(job)
            self._texts[name][circumstance] = _read(folder)
            _console.print(f"{circumstance}, {name}: {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def _pool(requests: int, replicas: int) -> Iterator[dict[str, Any]]:
    """Runs a warm pool inside the block; yields the sections with which a job uses it."""
    engine: dict[str, Any] = {"max_model_len": 1024, "max_num_seqs": requests}
    cluster: dict[str, Any] = {"replicas": replicas}
    if _count_gpus():
        # Both replicas share one GPU.
        cluster["gpus_per_replica"], engine["gpu_memory_utilization"] = 0.5, 0.4
    else:
        cluster["cpus_per_replica"] = max((os.cpu_count() or 1) // 2, 1)
    warm_pool.start_pool("determinism", Model(), engine, Cluster(**cluster), idle_seconds=3600)
    try:
        yield {"model": {"id": "embedded"}, "engine": engine, "cluster": cluster}
    finally:
        warm_pool.stop_pool("determinism")


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _own_ray(mode: str) -> Iterator[None]:
    """Starts a Ray cluster for the block; its replicas inherit the mode from the environment."""
    os.environ.pop("RAY_ADDRESS", None)
    if mode == "batch-invariant":
        os.environ[_BATCH_INVARIANT] = "1"
    try:
        with connect_to_ray(None):
            yield
    finally:
        os.environ.pop(_BATCH_INVARIANT, None)


def _reset_prefix_caches(sections: dict[str, Any]) -> None:
    """Empties the prefix caches, so that a run begins as with a new engine.

    Raises:
        RunError: an engine still runs requests after ten minutes.
    """
    import ray

    _, replicas = warm_pool.find_pool(Model(**sections["model"]), sections["engine"])
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    # An engine refuses while it runs requests, and those of a killed driver end only after a while.
    while not all(ray.get([replica.reset_prefix_cache.remote() for replica in replicas])):
        if time.monotonic() > deadline:
            cause = "the engine still runs requests of another job"
            raise RunError("bench", None, cause, "leave its pool to the bench")
        time.sleep(1)


def _run_until_half(job: dict[str, Any], job_file: Path) -> None:
    """Runs the job in a process of its own, and kills it when half of the rows are on disk.

    Raises:
        RunError: the process ended by itself before that.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    job_file.write_text(json.dumps({**job, "cluster": {**job["cluster"], "address": address}}))  # JSON is YAML
    command = [sys.executable, "-m", "pipelines", "augment", str(job_file)]
    driver = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while driver.poll() is None and not _half_done(job["output"]["path"]):
            time.sleep(0.05)
    finally:
        driver.kill()
    if driver.wait() >= 0:
        cause = f"the driver ended with {driver.returncode} before half of its rows were done"
        raise RunError("bench", str(job_file), cause, "raise --rows")


def _half_done(run: str) -> bool:
    with contextlib.suppress(KindlingError):
        finished, rows = count_finished(ShardStore(run))
        return 2 * finished >= rows
    return False


def _read(folder: Path) -> Texts:
    rows = pq.read_table(folder / "data", columns=["row_index", "sample", "text"]).to_pylist()
    return {(row["row_index"], row["sample"]): row["text"] for row in rows}


def _print_table(same: dict[str, dict[str, dict[str, int]]], rows: int) -> None:
    circumstances = list(next(iter(same.values()))["sampled"])
    table = Table("mode", "", *circumstances, title=f"share of {rows} texts that are the same as in the first run")
    for mode, temperatures in same.items():
        for name, counts in temperatures.items():
            table.add_row(mode, name, *(f"{counts[circumstance] / rows:.1%}" for circumstance in circumstances))
    Console(width=120).print(table)

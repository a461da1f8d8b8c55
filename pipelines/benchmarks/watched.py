"""What it costs to be watched: the same rows by two engines, one of which tells nothing.

The watched one has vLLM's own series on Ray's metrics port, and its job an endpoint that is read every second, which is
fifteen times as often as the Prometheus that we ship does. A clock is too coarse for a hundredth, so processor time is
compared: that of the replica's own process, which hands rows to its engine and tells vLLM's series, and the driver's.
Counting rows cannot be turned off; what that takes is measured for itself. On a GPU the clock tells: it does not wait
for a processor that counts. The clock runs from the first request to the end of the last one: how long a disk then
takes has nothing to do with who watches.
"""

import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import ray
from scipy.stats import t

from pipelines.augmentation.augment import augment
from pipelines.augmentation.progress import Progress
from pipelines.benchmarks.report import Goal, conclude
from pipelines.benchmarks.throughput.workloads import Workload
from pipelines.previewing.estimates import CONFIDENCE, Interval
from schemas.emotions import EMOTIONS
from schemas.job import Cluster, Model
from services.cluster import connect_to_ray
from services.observability.series import AugmentMetrics
from services.replicas import warm_pool
from services.storage.store import ShardStore

_ENGINE = {"max_model_len": 1024, "max_num_seqs": 16}
_TOKENS = 64
# Of a GPU, which both engines share; only one of them has rows at a time.
_GPU_SHARE, _MEMORY_SHARE = 0.5, 0.42
_COUNTED = 300
# Reads the endpoint of a run, from when it is there until it is gone.
_SCRAPER = """
import json, sys, time, urllib.request
while True:
    time.sleep(1)
    try:
        address = json.load(open(sys.argv[1]))["metrics"]
        urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read()
    except (OSError, ValueError):
        pass
"""


@dataclass(frozen=True)
class _Arm:
    """An engine, and how it is asked for."""

    model: Model
    engine: dict[str, Any]
    cluster: Cluster


def watched(
    rows: int, rounds: int, model: Model | None = None, engine: dict[str, Any] | None = None, tokens: int = _TOKENS
) -> bool:
    """Measures in alternating order, and returns whether the goals are met: less than a hundredth.

    Args:
        rows: of each run.
        rounds: runs of each engine, at least two; without a GPU on each of two cores.
        model: by default the embedded one.
        engine: options of vLLM.
        tokens: of each row.
    """
    contexts = [{"context": f"Boat {i} drifts down a river.", "emotion": EMOTIONS[i % 27]} for i in range(rows)]
    sampling = {"temperature": 0.9, "top_p": 0.95, "max_tokens": tokens, "ignore_eos": True}
    workload = Workload("watched", "babylm_story", "p3", contexts, sampling)
    engine = engine or _ENGINE
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, connect_to_ray(None):
        folder = Path(scratch)
        workload.write(folder / "rows.jsonl")
        arms = _arms(model or Model(), engine)
        samples: dict[str, Any] = {name: [] for name in arms}
        orders = [list(arms)]
        if not _on_gpu():  # each engine has a core of its own, and no two cores are alike: halfway they change places
            orders.append(orders[0][::-1])
        for turn, order in enumerate(orders):
            for name in order:
                arm = arms[name]
                warm_pool.start_pool(name, arm.model, arm.engine, arm.cluster, idle_seconds=24 * 3600)
            for round_ in range(-1, rounds):  # the first one warms both up
                for name in order if round_ % 2 else order[::-1]:
                    sample = _run(name, arms[name], workload, folder, f"{name}-{turn}-{round_}")
                    samples[name] += [{**sample, "turn": turn}] if round_ >= 0 else []
            for name in order:
                warm_pool.stop_pool(name)
        samples["seconds_to_count_a_row"] = _counting(folder / "watched-0-0")
    settings = {"engine": engine, "rows": rows, "tokens_of_each": tokens, "rounds": rounds}
    return conclude("watched", settings, samples, goals_of(samples))


def _on_gpu() -> bool:
    return bool(ray.cluster_resources().get("GPU"))


def _arms(model: Model, engine: dict[str, Any]) -> dict[str, _Arm]:
    if _on_gpu():
        engine, cluster = {"gpu_memory_utilization": _MEMORY_SHARE, **engine}, Cluster(gpus_per_replica=_GPU_SHARE)
    else:
        cluster = Cluster(cpus_per_replica=1)
    engines = {"watched": engine, "alone": {**engine, "disable_log_stats": True}}
    return {name: _Arm(model, each, cluster) for name, each in engines.items()}


def goals_of(samples: dict[str, Any]) -> list[Goal]:
    """The share of a run's time for which a processor does nothing but tell how it is, the rounds' median, and what a
    clock says.
    """
    counting = statistics.median(samples["seconds_to_count_a_row"])
    shares = [
        (one["driver_seconds"] + one["replica_seconds"] - other["driver_seconds"] - other["replica_seconds"]
         + counting * one["rows"]) / other["seconds"]
        for one, other in zip(samples["watched"], samples["alone"], strict=True)
    ]  # fmt: skip
    clock = by_the_clock(samples)
    return [
        Goal("processor time of being watched / time of the run", statistics.median(shares), 0.01, at_least=False),
        Goal(f"tokens/s: watched / alone, 90%: {clock.low:.3f} to {clock.high:.3f}", clock.value, 0.99),
    ]


def by_the_clock(samples: dict[str, Any]) -> Interval:
    """How much faster the watched engine is.

    The mean of what it is on the one core and on the other: how much these differ falls out.
    """
    turns: dict[int, list[float]] = {}
    for one, other in zip(samples["watched"], samples["alone"], strict=True):
        turns.setdefault(one["turn"], []).append(math.log(other["seconds"] / one["seconds"]))
    mean = statistics.fmean(statistics.fmean(logs) for logs in turns.values())
    error = math.sqrt(sum(statistics.variance(logs) / len(logs) for logs in turns.values())) / len(turns)
    half = float(t.ppf((1 + CONFIDENCE) / 2, sum(len(logs) - 1 for logs in turns.values()))) * error
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _run(which: str, arm: _Arm, workload: Workload, folder: Path, name: str) -> dict[str, float]:
    (replica,) = warm_pool.find_pool(arm.model, arm.engine)[1]
    ray.get(replica.reset_prefix_cache.remote())
    process = psutil.Process(ray.get(replica.start.remote()).pids[0])
    job = {
        "name": name,
        "input": {"path": str(folder / "rows.jsonl")},
        "recipe": workload.recipe,
        "prompt": workload.prompt,
        "sampling": workload.sampling,
        "model": arm.model.model_dump(),
        "engine": arm.engine,
        "cluster": arm.cluster.model_dump(),
        "output": {"path": str(folder / name), "rows_per_shard": 64},
        "metrics": {"port": 0 if which == "watched" else None},
    }
    command = [sys.executable, "-c", _SCRAPER, str(folder / name / "run.json")]
    scraper = subprocess.Popen(command) if which == "watched" else None
    driver, before = time.process_time(), process.cpu_times()
    summary = augment(job)
    driver, after = time.process_time() - driver, process.cpu_times()
    if scraper is not None:
        scraper.kill()
        scraper.wait()
    store = ShardStore(summary.run)
    shards = [store.read_manifest(number) for number in store.committed_shards()]
    starts, ends = ([_seconds(getattr(each, name)) for each in shards] for name in ("started_at", "finished_at"))
    return {
        "rows": summary.generated,
        "output_tokens": summary.output_tokens,
        "seconds": max(ends) - min(starts),
        "driver_seconds": driver,
        "replica_seconds": after.user + after.system - before.user - before.system,
    }


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _counting(run: Path) -> list[float]:
    """Processor time to count a row that comes alone, which is the dearest; the mean of many, a few times."""
    store = ShardStore(str(run))
    row = next(store.read_rows()).slice(0, 1)
    progress = Progress(store.read_run(), AugmentMetrics("counted"))
    found = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(_COUNTED):
            progress.on_rows(row)
        found.append((time.thread_time() - began) / _COUNTED)
    return found

"""What it costs to be watched: the same rows by two engines, one of which tells nothing.

The watched one has vLLM's own series on Ray's metrics port, and its job an endpoint that is read every second, which is
fifteen times as often as the Prometheus that we ship does. A clock is too coarse for a hundredth, so processor time is
compared: that of the replica's own process, which hands rows to its engine and tells vLLM's series, and the driver's.
Counting rows cannot be turned off; what that takes is measured for itself.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from pipelines.augmentation import augment
from pipelines.benchmarks.report import Goal, conclude, ratio
from pipelines.benchmarks.workloads import Workload
from pipelines.progress import Progress
from schemas.emotions import EMOTIONS
from schemas.job import Cluster, Model
from services import warm_pool
from services.cluster import connected
from services.metrics import JobMetrics
from services.store import ShardStore

_ENGINE = {"max_model_len": 1024, "max_num_seqs": 16}
_ENGINES = {"watched": _ENGINE, "alone": {**_ENGINE, "disable_log_stats": True}}
_TOKENS = 64
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


def watched(rows: int, rounds: int) -> bool:
    """Measures in alternating order, and returns whether the goal is met: less than a hundredth.

    Args:
        rows: of each run, with 64 tokens each.
        rounds: runs of each engine on each of two cores.
    """
    contexts = [{"context": f"Boat {i} drifts down a river.", "emotion": EMOTIONS[i % 27]} for i in range(rows)]
    sampling = {"temperature": 0.9, "top_p": 0.95, "max_tokens": _TOKENS, "ignore_eos": True}
    workload = Workload("watched", "babylm_story", "p3", contexts, sampling)
    samples: dict[str, Any] = {arm: [] for arm in _ENGINES}
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, connected(None):
        folder = Path(scratch)
        workload.write(folder / "rows.jsonl")
        # Each engine has a core of its own, and no two cores are alike: halfway they change places.
        for turn, order in enumerate((list(_ENGINES), list(_ENGINES)[::-1])):
            for arm in order:
                warm_pool.start_pool(arm, Model(), _ENGINES[arm], Cluster(cpus_per_replica=1), idle_seconds=24 * 3600)
            for round_ in range(-1, rounds):  # the first one warms both up
                for arm in order if round_ % 2 else order[::-1]:
                    sample = _run(arm, workload, folder, f"{arm}-{turn}-{round_}")
                    samples[arm] += [sample] if round_ >= 0 else []
            for arm in order:
                warm_pool.stop_pool(arm)
        samples["seconds_to_count_a_row"] = _counting(folder / "watched-1-0")
    settings = {"engine": _ENGINE, "rows": rows, "tokens_of_each": _TOKENS, "rounds": rounds}
    return conclude("watched", settings, samples, goals_of(samples))


def goals_of(samples: dict[str, Any]) -> list[Goal]:
    """Medians of the rounds: the share of a run's time for which a processor does nothing but tell how it is, and what
    a clock says, as far as it can.
    """
    counting = statistics.median(samples["seconds_to_count_a_row"])
    shares = [
        (one["driver_seconds"] + one["replica_seconds"] - other["driver_seconds"] - other["replica_seconds"]
         + counting * one["rows"]) / other["seconds"]
        for one, other in zip(samples["watched"], samples["alone"], strict=True)
    ]  # fmt: skip
    seconds = [[run["seconds"] for run in samples[arm]] for arm in ("alone", "watched")]
    return [
        Goal("processor time of being watched / time of the run", statistics.median(shares), 0.01, at_least=False),
        Goal("tokens/s: watched / alone", ratio(*seconds).median, 0.99),
    ]


def _run(arm: str, workload: Workload, folder: Path, name: str) -> dict[str, float]:
    (replica,) = warm_pool.find_pool(Model(), _ENGINES[arm])[1]
    ray.get(replica.reset_prefix_cache.remote())
    process = psutil.Process(ray.get(replica.start.remote()).pids[0])
    job = {
        "name": name,
        "input": {"path": str(folder / "rows.jsonl")},
        "recipe": workload.recipe,
        "prompt": workload.prompt,
        "sampling": workload.sampling,
        "engine": _ENGINES[arm],
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(folder / name), "rows_per_shard": 64},
        "metrics": {"port": 0 if arm == "watched" else None},
    }
    command = [sys.executable, "-c", _SCRAPER, str(folder / name / "run.json")]
    scraper = subprocess.Popen(command) if arm == "watched" else None
    driver, before = time.process_time(), process.cpu_times()
    summary = augment(job)
    driver, after = time.process_time() - driver, process.cpu_times()
    if scraper is not None:
        scraper.kill()
        scraper.wait()
    return {
        "rows": summary.generated,
        "output_tokens": summary.output_tokens,
        "seconds": summary.serving_seconds,
        "driver_seconds": driver,
        "replica_seconds": after.user + after.system - before.user - before.system,
    }


def _counting(run: Path) -> list[float]:
    """Processor time to count a row that comes alone, which is the dearest; the mean of many, a few times."""
    store = ShardStore(str(run))
    row = next(store.rows()).slice(0, 1)
    progress = Progress(store.read_run(), JobMetrics("counted"))
    found = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(_COUNTED):
            progress.on_rows(row, recovered=False)
        found.append((time.thread_time() - began) / _COUNTED)
    return found

"""`kindling bench chaos`: runs whose processes are killed and stopped at any moment, and what is lost by it.

    the fake engine    two replicas on a real Ray cluster, every second time those of a warm pool; good rows, rows that
                       are rejected or fail, and rows that kill their engine
    on S3 (--store)    the same on the fake engine, with runs on an S3 server whose requests are disturbed as well
    the real engine    fewer kills, because a start takes long: driver, replica, and vLLM's own processes

Each run is watched while it is written (`watch`), and checked when it is complete (`check`). As long as kills are left,
another run begins.
"""

import contextlib
import functools
import json
import logging
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.benchmarks.chaos.check import check_run, expected_run
from pipelines.benchmarks.chaos.faults import DisturbedRun, FaultPlan, Pace
from pipelines.benchmarks.chaos.jobs import CPUS, FAKE, REAL, fake_job, real_job
from pipelines.benchmarks.chaos.object_store import LEASE_SECONDS, SHARES, ObjectStore, object_store
from pipelines.benchmarks.chaos.processes import ReplicaProcesses
from pipelines.benchmarks.chaos.watch import Watcher, count_repeated_requests
from pipelines.benchmarks.report import Goal, conclude
from services.replicas import warm_pool
from services.storage import failpoints

Samples = dict[str, dict[str, list[dict[str, Any]]]]
"""by engine: `runs`, each a `RunReport`, and `faults`, each a `faults.Fault`"""

_MIN_COMMIT_SHARE = 0.2
# Share of kills inside a commit among those on the fake engine: more than the goal, because those on the real engine
# are all outside.
_COMMIT_SHARE = 0.25
# There are two replicas, so this makes each process as likely.
_FAKE_ROLES, _REAL_ROLES = ("driver", "replica", "replica"), ("driver", "replica", "engine")
_FAKE_PACE = Pace(pause_seconds=4.0, stop_seconds=3.0, standstill_seconds=180.0)
# A real engine takes about 40 s to start, and about as long to serve a whole run.
_REAL_PACE = Pace(pause_seconds=60.0, stop_seconds=5.0, standstill_seconds=600.0)
# Replicas end with their driver, but not in the same moment.
_ENDING_SECONDS = 20.0

# A start there may wait for the lease of a killed driver.
_S3_PACE = Pace(pause_seconds=6.0, stop_seconds=3.0, standstill_seconds=300.0)
_S3_FAILPOINTS = (
    "commit.begun", "sibling.renamed", "commit.siblings", "data.renamed", "commit.data", "commit.dropped",
    "file.renamed", "log.appended",
)  # fmt: skip
_SECOND, _NEEDLESS = "second drivers that were not refused", "rows generated again that were on disk"
# On an object store another driver rightly takes the lease of one that is stopped, and a stale listing hides rows.
_LOCAL_GOALS = (_SECOND, _NEEDLESS)

_console = Console(stderr=True)


@dataclass(frozen=True)
class RunReport:
    """A complete run.

    Attributes:
        rows: number of outputs.
        warm: whether its replicas were those of a warm pool.
        looks: number of times that all its files were read while it was written.
        findings: faults by kind: those of `check.Findings`, `forgotten` (see `watch.Watcher`) and `left_behind`
            (processes that did not end).
        started_again: requests beyond one for each row; None where the engine keeps no journal.
        started_needlessly: how many of those had their row on disk already.
    """

    rows: int
    warm: bool
    starts: int
    seconds: float
    looks: int
    findings: dict[str, list[str]]
    started_again: int | None = None
    started_needlessly: int | None = None


def measure(kills: int, real_kills: int, seed: int, rows: int, store: str, programs: bool = False) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        kills: number of SIGKILLs in runs on the fake engine.
        real_kills: number of SIGKILLs in runs on the embedded model; 0: there are no such runs.
        seed: seed from which victims, times and failpoints are drawn.
        rows: number of input rows in each run on the fake engine.
        store: `local`; or `s3`: the runs are on an S3 server, whose requests are disturbed too, on the fake engine.
        programs: rows on the fake engine take two generations, a judge, and up to three tries.
    """
    if store == "s3":
        return _measure_on_s3(kills, seed, rows, programs)
    draw = random.Random(seed)
    commit_kills = math.ceil(kills * _COMMIT_SHARE)
    fake_plan = FaultPlan(draw, _FAKE_ROLES, kills - commit_kills, commit_kills, _FAKE_PACE)
    real_plan = FaultPlan(draw, _REAL_ROLES, real_kills, 0, _REAL_PACE)
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, _cluster() as address:
        samples = {
            "fake": _complete_runs(
                Path(scratch) / "fake", fake_plan, lambda folder: fake_job(folder, address, rows, programs)
            ),
            "embedded": _complete_runs(Path(scratch) / "embedded", real_plan, lambda folder: real_job(folder, address)),
        }
    _print_table(samples)
    settings = {
        "kills": kills, "real_kills": real_kills, "seed": seed, "rows": rows, "programs": programs,
        "fake": {**FAKE, **asdict(_FAKE_PACE)},
        "embedded": {**REAL, **asdict(_REAL_PACE)},
    }  # fmt: skip
    return conclude("chaos", settings, samples, goals_of(samples, kills, real_kills))


def _measure_on_s3(kills: int, seed: int, rows: int, programs: bool) -> bool:
    draw = random.Random(seed)
    commit_kills = math.ceil(kills * _COMMIT_SHARE)
    plan = FaultPlan(draw, _FAKE_ROLES, kills - commit_kills, commit_kills, _S3_PACE, _S3_FAILPOINTS, store_fails=True)
    with (
        tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch,
        object_store(random.Random(seed)) as store,
        _cluster() as address,
    ):
        jobs = Path(scratch) / "s3"
        samples = {"fake": _complete_runs(jobs, plan, lambda folder: fake_job(folder, address, rows, programs), store)}
    _print_table(samples)
    settings = {
        "kills": kills, "seed": seed, "rows": rows, "programs": programs, "store": "s3",
        "lease_seconds": LEASE_SECONDS, "shares": SHARES, "requests": dict(store.faults),
        "fake": {**FAKE, **asdict(_S3_PACE)},
    }  # fmt: skip
    goals = [goal for goal in goals_of(samples, kills, 0) if goal.name not in _LOCAL_GOALS]
    return conclude("chaos", settings, samples, goals)


def goals_of(samples: Samples, kills: int, real_kills: int) -> list[Goal]:
    """Compares the samples with the goals: enough kills, enough of them inside a commit, and no fault of any kind."""
    faults = [fault for sample in samples.values() for fault in sample["faults"]]
    runs = [run for sample in samples.values() for run in sample["runs"]]
    kinds = Counter(fault["kind"] for fault in faults)
    findings = Counter({kind: 0 for run in runs for kind in run["findings"]})
    for run in runs:
        findings.update({kind: len(lines) for kind, lines in run["findings"].items()})
    findings[_SECOND] = sum(fault["kind"] == "second driver" and fault["detail"] != "refused" for fault in faults)
    findings["drivers that failed by themselves"] = kinds["failure"]
    findings[_NEEDLESS] = sum(run["started_needlessly"] or 0 for run in runs)
    all_kills = kinds["kill"] + kinds["failpoint"]
    commit_share = sum(fault["victim"] in failpoints.COMMIT for fault in faults) / max(all_kills, 1)
    return [
        Goal("kills", all_kills, kills + real_kills),
        *([Goal("share of them inside a commit", commit_share, _MIN_COMMIT_SHARE)] if kills else []),
        *(Goal(kind.replace("_", " "), number, 0, at_least=False) for kind, number in findings.items()),
    ]


@contextlib.contextmanager
def _cluster() -> Iterator[str]:
    """Starts a Ray cluster that outlives every driver; yields its address."""
    import ray

    # The same as `services.cluster` sets, but with CPUs for the replicas of a dead driver beside those of the next.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        "local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=256 << 20,
    )  # fmt: skip
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def _complete_runs(
    folder: Path, plan: FaultPlan, make_job: Callable[[Path], dict[str, Any]], store: ObjectStore | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Completes one run after another until no kill is left; returns a sample."""
    runs: list[RunReport] = []
    while plan.kills_left > 0:
        scratch = folder / str(len(runs))
        scratch.mkdir(parents=True)
        job = make_job(scratch)
        if store:
            job["output"]["path"] = f"{store.url}/{len(runs)}"
        warm = job["model"]["id"] == "fake" and len(runs) % 2 == 1
        runs.append(_complete_run(scratch, job, plan, warm, store))
        _console.print(f"{folder.name}: run {len(runs)} complete after {runs[-1].starts} starts; "
                       f"{plan.kills_left} kills to come")  # fmt: skip
    return {"runs": [asdict(run) for run in runs], "faults": [asdict(fault) for fault in plan.faults]}


def _complete_run(
    folder: Path, job: dict[str, Any], plan: FaultPlan, warm: bool, store: ObjectStore | None
) -> RunReport:
    job_file, url = folder / "job.yaml", job["output"]["path"]
    run = folder / "copy" if store else Path(url)
    job_file.write_text(json.dumps(job))  # JSON is YAML
    expected, processes, began = expected_run(job), ReplicaProcesses(), time.monotonic()
    refresh = functools.partial(store.copy, url, run) if store else lambda: None
    watcher = Watcher(run, expected, random.Random(plan.draw.random()), refresh)
    with _pool(job_file) if warm else contextlib.nullcontext(), watcher:
        disturbed = DisturbedRun(job_file, watcher, plan, processes, warm)
        disturbed.complete()
        watcher.look()
    findings = asdict(check_run(run, expected))
    findings["torn"] += watcher.torn
    findings |= {"forgotten": watcher.forgotten, "left_behind": processes.left_behind(_ENDING_SECONDS)}
    journal = job["engine"].get("journal")
    repeated = count_repeated_requests(Path(journal), expected, watcher.seen) if journal else (None, None)
    seconds = round(time.monotonic() - began, 1)
    return RunReport(len(expected.seeds), warm, disturbed.starts, seconds, watcher.looks, findings, *repeated)


@contextlib.contextmanager
def _pool(job_file: Path) -> Iterator[None]:
    """Starts a warm pool for the job while the block runs.

    A process of its own starts it, so that this one does not log the deaths of its replicas.
    """
    command = [sys.executable, "-m", "pipelines", "pool", "start", str(job_file), "--name", "chaos"]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        warm_pool.stop_pool("chaos")


def _print_table(samples: Samples) -> None:
    counts_by_engine = {name: _count(sample) for name, sample in samples.items()}
    table = Table("", *(f"{name} engine" for name in counts_by_engine))
    for row in dict.fromkeys(row for counts in counts_by_engine.values() for row in counts):
        table.add_row(row, *(str(counts[row]) for counts in counts_by_engine.values()))
    Console(width=120).print(table)


def _count(sample: dict[str, list[dict[str, Any]]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for key in ("rows", "starts", "looks", "started_again", "started_needlessly"):
        counts[key.replace("_", " ")] = sum(run[key] or 0 for run in sample["runs"])
    for fault in sorted(sample["faults"], key=lambda fault: (fault["kind"], fault["victim"])):
        counts[f"{fault['kind']}: {fault['victim']}"] += 1
    for run in sample["runs"]:
        counts.update({kind.replace("_", " "): len(lines) for kind, lines in run["findings"].items()})
    return counts

"""`kindling bench chaos`: runs whose processes are killed and stopped at any moment, and what is lost by it.

    the fake engine    two replicas on a real Ray cluster, every second time a warm pool's; good rows, rows that are
                       rejected or fail, and rows that kill their engine
    the real engine    fewer kills of a slower thing: driver, replica, and vLLM's own processes

A run that is complete is checked (`chaos_check`), and has been watched all the while (`chaos_watch`); as long as kills
are left another one begins.
"""

import contextlib
import json
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

from pipelines.benchmarks.chaos.check import check_run, specification
from pipelines.benchmarks.chaos.faults import Fire, RunUnderFire
from pipelines.benchmarks.chaos.jobs import CPUS, FAKE, REAL, fake_job, real_job
from pipelines.benchmarks.chaos.processes import Census
from pipelines.benchmarks.chaos.watch import Watcher, started_again
from pipelines.benchmarks.report import Goal, conclude
from services.replicas import warm_pool
from services.storage import failpoints

_LEAST_INSIDE_SHARE = 0.2
# Kills inside a commit among those of the fake engine, so that they are a fifth of all also beside the real one.
_INSIDE_SHARE = 0.25
# With two replicas each process is as likely to be hit.
_FAKE_ROLES, _REAL_ROLES = ("driver", "replica", "replica"), ("driver", "replica", "engine")
_FAKE_PACE = {"pause_seconds": 4.0, "stop_seconds": 3.0, "standstill_seconds": 180.0}
# A real engine takes about 40 s to start, and a run of it about as long to be served.
_REAL_PACE = {"pause_seconds": 60.0, "stop_seconds": 5.0, "standstill_seconds": 600.0}
# Replicas end with their driver, but not in the same moment.
_ENDING_SECONDS = 20.0

_console = Console(stderr=True)


@dataclass(frozen=True)
class RunReport:
    """A complete run.

    Attributes:
        rows: outputs.
        looks: times that all its files were read while it was written.
        findings: what is wrong with it, by kind: those of `chaos_check.Findings`, and `forgotten` and `left_behind`.
        started_again: requests beyond one for each row; None where the engine keeps no journal.
        started_needlessly: those of them whose rows had been seen on disk.
    """

    rows: int
    warm: bool
    starts: int
    seconds: float
    looks: int
    findings: dict[str, list[str]]
    started_again: int | None = None
    started_needlessly: int | None = None


def measure(kills: int, real_kills: int, seed: int, rows: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        kills: SIGKILLs of runs on the fake engine.
        real_kills: SIGKILLs of runs on the embedded model; none: that is left out.
        seed: of the victims, times and failpoints.
        rows: input rows of each run on the fake engine.
    """
    draw = random.Random(seed)
    inside = math.ceil(kills * _INSIDE_SHARE)
    fire = Fire(draw, _FAKE_ROLES, kills - inside, inside, **_FAKE_PACE)
    real_fire = Fire(draw, _REAL_ROLES, real_kills, 0, **_REAL_PACE)
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, _cluster() as address:
        samples = {
            "fake": _campaign(Path(scratch) / "fake", fire, lambda folder: fake_job(folder, address, rows)),
            "embedded": _campaign(Path(scratch) / "embedded", real_fire, lambda folder: real_job(folder, address)),
        }
    _print_table(samples)
    settings = {
        "kills": kills, "real_kills": real_kills, "seed": seed, "rows": rows, "fake": {**FAKE, **_FAKE_PACE},
        "embedded": {**REAL, **_REAL_PACE},
    }  # fmt: skip
    return conclude("chaos", settings, samples, goals_of(samples, kills, real_kills))


def goals_of(samples: dict[str, dict[str, list[dict[str, Any]]]], kills: int, real_kills: int) -> list[Goal]:
    """What the samples come to, beside what they should."""
    kinds = Counter(fault["kind"] for sample in samples.values() for fault in sample["faults"])
    runs = [run for sample in samples.values() for run in sample["runs"]]
    found = Counter({kind: 0 for run in runs for kind in run["findings"]})
    for run in runs:
        found.update({kind: len(faults) for kind, faults in run["findings"].items()})
    found["second drivers that were not refused"] = sum(
        fault["kind"] == "second driver" and fault["detail"] != "refused"
        for sample in samples.values()
        for fault in sample["faults"]
    )
    found["drivers that failed by themselves"] = kinds["failure"]
    found["rows generated again that were on disk"] = sum(run["started_needlessly"] or 0 for run in runs)
    all_kills = kinds["kill"] + kinds["failpoint"]
    inside = sum(fault["victim"] in failpoints.COMMIT for sample in samples.values() for fault in sample["faults"])
    return [
        Goal("kills", all_kills, kills + real_kills),
        *([Goal("share of them inside a commit", inside / max(all_kills, 1), _LEAST_INSIDE_SHARE)] if kills else []),
        *(Goal(kind.replace("_", " "), number, 0, at_least=False) for kind, number in found.items()),
    ]


@contextlib.contextmanager
def _cluster() -> Iterator[str]:
    """A Ray that outlives every driver; its address."""
    import ray

    # As `services.cluster` starts it, but with room for the replicas of a dead driver beside those of the next.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    context = ray.init(
        "local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=256 << 20,
    )  # fmt: skip
    try:
        yield context.address_info["address"]
    finally:
        ray.shutdown()


def _campaign(folder: Path, fire: Fire, job_of: Callable[[Path], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs, until no kill is left to come."""
    runs = []
    while fire.burns:
        scratch = folder / str(len(runs))
        scratch.mkdir(parents=True)
        job = job_of(scratch)
        runs.append(_run(scratch, job, fire, warm=job["model"]["id"] == "fake" and len(runs) % 2 == 1))
        left = fire.inside + fire.outside
        _console.print(f"{folder.name}: run {len(runs)} complete after {runs[-1].starts} starts; {left} kills to come")
    return {"runs": [asdict(run) for run in runs], "faults": [asdict(fault) for fault in fire.faults]}


def _run(folder: Path, job: dict[str, Any], fire: Fire, warm: bool) -> RunReport:
    job_file, run = folder / "job.yaml", Path(job["output"]["path"])
    job_file.write_text(json.dumps(job))  # JSON is YAML
    wanted, census, began = specification(job), Census(), time.monotonic()
    watcher = Watcher(run, wanted, random.Random(fire.draw.random()))
    with _pool(job_file) if warm else contextlib.nullcontext(), watcher:
        under_fire = RunUnderFire(job_file, watcher, fire, census, warm)
        under_fire.complete()
        watcher.look()
    findings = asdict(check_run(run, wanted))
    findings["torn"] += watcher.torn
    findings |= {"forgotten": watcher.forgotten, "left_behind": census.left_behind(_ENDING_SECONDS)}
    journal = job["engine"].get("journal")
    again = started_again(Path(journal), wanted, watcher.seen) if journal else (None, None)
    seconds = round(time.monotonic() - began, 1)
    return RunReport(len(wanted.seeds), warm, under_fire.starts, seconds, watcher.looks, findings, *again)


@contextlib.contextmanager
def _pool(job_file: Path) -> Iterator[None]:
    """A warm pool for the job; started by a process that ends, so that its troubles are not told here."""
    command = [sys.executable, "-m", "pipelines", "pool", "start", str(job_file), "--name", "chaos"]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        warm_pool.stop_pool("chaos")


def _print_table(samples: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    counted = {name: _counts(sample) for name, sample in samples.items()}
    table = Table("", *(f"{name} engine" for name in counted))
    for row in dict.fromkeys(row for counts in counted.values() for row in counts):
        table.add_row(row, *(str(counts[row]) for counts in counted.values()))
    Console(width=120).print(table)


def _counts(sample: dict[str, list[dict[str, Any]]]) -> Counter[str]:
    runs, counts = sample["runs"], Counter()
    for key in ("rows", "starts", "looks", "started_again", "started_needlessly"):
        counts[key.replace("_", " ")] = sum(run[key] or 0 for run in runs)
    for fault in sorted(sample["faults"], key=lambda fault: (fault["kind"], fault["victim"])):
        counts[f"{fault['kind']}: {fault['victim']}"] += 1
    for run in runs:
        counts.update({kind.replace("_", " "): len(faults) for kind, faults in run["findings"].items()})
    return counts

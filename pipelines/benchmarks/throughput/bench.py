"""`kindling bench throughput`: raw vLLM, the scripts people write, Ray Data and Kindling, side by side.

All arms serve the same prompts on the same cores, in alternating order, and their engines are up before the clock
starts. Ratios are of runs in the same round.

    whole          raw `LLM.chat` over all prompts at once, with Kindling's seeds and engine arguments
    whole+nucleus  `whole` with Kindling's `top_p` sampler (`services.engines.nucleus`): beside this arm, and beside
                   `whole` where `top_p` is 1, Kindling shows what the service itself costs
    queue          `LLM.enqueue_chat` and `LLM.wait_for_completion` without seeds, with vLLM's own sampling and chunked
                   prefill: vLLM at its best
    ray            `ray.data.llm` into Parquet, at the best settings of a grid that is tried first
    kindling       `kindling augment` on a warm pool

Each run is kept as soon as it is done (`kept`), so that a bench that was stopped goes on. With `--metrics` the cost of
metrics is measured instead (`metrics_cost`).
"""

import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipelines.benchmarks.report import Goal, Ratio, alternate, conclude, machine, ratio
from pipelines.benchmarks.throughput import metrics_cost
from pipelines.benchmarks.throughput.arms import Baseline, Kindling
from pipelines.benchmarks.throughput.kept import KeptRuns
from pipelines.benchmarks.throughput.one_at_a_time import KINDLING, RAW, SCRAPED, measure_arms
from pipelines.benchmarks.throughput.worker import Result, Samples
from pipelines.benchmarks.throughput.workloads import WORKLOADS, Workload, WorkloadFiles, p3
from pipelines.run_folder import versions
from schemas.errors import JobError
from services.cluster import connect_to_ray

ENGINE = {"max_model_len": 2048, "max_num_seqs": 64, "kv_cache_memory_bytes": 2 << 30}
# For the openings of stories with p3. The KV cache holds 3,260 tokens of the embedded model: the eight requests that
# run, and hardly more. An emotion's examples are computed again unless its rows follow each other.
SMALL_CACHE = {"max_model_len": 2048, "max_num_seqs": 8, "kv_cache_memory_bytes": 72 << 20, "block_size": 32}
_SMALL_CACHE_WORKLOADS = ("p3-openings",)
_WITHOUT_NUCLEUS = ("messages",)
# (batch_size, max_concurrent_batches). A batch ends with its slowest row, so more rows than the engine runs have to be
# in flight.
GRID = [(16, 16), (64, 8), (64, 16)]
_IDLE_SECONDS = 5.0
_NUCLEUS, _QUEUE, _RAY = "whole+nucleus", "queue", "ray"
ARMS = [RAW, _QUEUE, _RAY, _NUCLEUS, KINDLING]
# Arms of the small cache: the others do not order rows by their prompts either.
_SMALL_CACHE_ARMS = [RAW, _NUCLEUS, KINDLING]
_MIN_RATIO_TO_EQUAL, _MIN_RATIO_TO_OTHERS = 0.99, 1.25
_MAX_FIRST_ROW_SECONDS = 3.0

_console = Console(stderr=True)


class Bench:
    """Prepares workloads in a scratch folder, runs arms, and keeps every run.

    Args:
        folder: scratch folder.
        cores: cores that each engine computes on.
        kept: runs that are there already, and those to come.
        deadline: time, on the monotonic clock, from which on no further run is begun.

    Attributes:
        grid: output tokens/s of Ray Data by its settings.
        first_row_seconds: seconds to the first row on a warm pool, three times.
        busy_share: share of the machine's cores that was in use before the first run.
    """

    def __init__(self, folder: Path, cores: list[int], kept: KeptRuns, deadline: float = math.inf) -> None:
        self._folder, self._cores, self._kept, self._deadline = folder, cores, kept, deadline
        self._files: dict[str, WorkloadFiles] = {}
        self._runs = 0
        self.grid: dict[str, float] = {}
        self.first_row_seconds: list[float] = []
        self.busy_share = math.nan

    def run_rounds(self, workloads: list[Workload], engine: dict[str, Any], arms: Sequence[str], rounds: int) -> None:
        """Runs the arms on the workloads `rounds` times; leaves out runs that are kept, and ends at the deadline."""
        missing = [
            (round_, workload, arm)
            for round_ in range(rounds)
            for workload in workloads
            for arm in alternate(arms, round_)
            if (workload.name, arm, round_) not in self._kept
        ]
        if not missing:
            return
        needed = {arm for *_, arm in missing}
        with ExitStack() as servers:
            start = functools.partial(Baseline, cores=self._cores, folder=self._folder)
            raw = queue = kindling = None
            if needed & {RAW, _NUCLEUS}:
                raw = servers.enter_context(closing(start("raw_vllm", engine)))
            if _QUEUE in needed:
                queue = servers.enter_context(
                    closing(start("raw_vllm", {**engine, "enable_chunked_prefill": True}, seeds="none"))
                )
            if KINDLING in needed:
                kindling = servers.enter_context(closing(Kindling(engine, self._cores)))
            time.sleep(_IDLE_SECONDS)  # the processes just started are still busy
            psutil.cpu_percent()
            self.busy_share = psutil.cpu_percent(interval=_IDLE_SECONDS) / 100
            batches = self._best_batches(workloads[0], engine) if _RAY in needed else (0, 0)
            for round_, workload, arm in missing:
                if time.monotonic() >= self._deadline:
                    _console.print("the time is up: what is missing is left for the same command with --keep")
                    return
                if arm == _RAY:
                    result = self._run_ray(workload, engine, batches)
                elif arm == KINDLING:
                    assert kindling is not None
                    result = kindling.run(*self._prepare(workload))
                else:
                    server = queue if arm == _QUEUE else raw
                    assert server is not None
                    result = server.run(arm, *self._prepare(workload))
                self._keep(workload.name, arm, round_, result)
            if kindling is not None and not self.first_row_seconds:
                folders = [self._folder / f"first-{number}" for number in range(3)]
                self.first_row_seconds = [kindling.seconds_to_first_row(folder) for folder in folders]

    def _best_batches(self, workload: Workload, engine: dict[str, Any]) -> tuple[int, int]:
        """Tries Ray Data's settings, and returns the fastest batch size and number of concurrent batches."""
        rates: dict[tuple[int, int], float] = {}
        for batches in GRID:
            rates[batches] = _rate(asdict(self._run_ray(workload, engine, batches)))
            self.grid["{}x{}".format(*batches)] = rates[batches]
            _console.print(f"ray grid: batch_size {batches[0]}, max_concurrent_batches {batches[1]}: "
                           f"{rates[batches]:.0f} output tokens/s")  # fmt: skip
        return max(rates, key=lambda batches: rates[batches])

    def _run_ray(self, workload: Workload, engine: dict[str, Any], batches: tuple[int, int]) -> Result:
        files, folder = self._prepare(workload)
        with closing(Baseline("ray_data_llm", engine, self._cores, self._folder)) as worker:
            return worker.run(_RAY, files, folder, batch_size=batches[0], max_concurrent_batches=batches[1])

    def _prepare(self, workload: Workload) -> tuple[WorkloadFiles, Path]:
        """Returns the workload's files, the same for all arms, and the path of a new folder to write to."""
        if workload.name not in self._files:
            self._files[workload.name] = workload.write(self._folder)
        self._runs += 1
        return self._files[workload.name], self._folder / f"run-{self._runs}"

    def _keep(self, workload: str, arm: str, round_: int, result: Result) -> None:
        run = asdict(result)
        self._kept.add(workload, arm, round_, run)
        _console.print(f"{workload} {arm}: {result.output_tokens} tokens in {result.seconds:.1f} s, "
                       f"{_rate(run):.0f} tokens/s")  # fmt: skip


def measure(
    data: str,
    rows: int,
    rounds: int,
    workloads: str = "",
    arms: str = "",
    minutes: float = 60.0,
    keep: str | None = None,
    metrics: bool = False,
) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with babylm_contexts.parquet, mistral_stories.parquet and alpaca_emotion.jsonl.
        rows: number of rows in each workload.
        rounds: number of runs of each arm on each workload.
        workloads, arms: names of those to measure, with commas between them; "" for all.
        minutes: time after which no further run is begun.
        keep: file that keeps each run; a bench that was stopped goes on from it.
        metrics: measures the cost of metrics instead, on prompts of p3.

    Raises:
        JobError: a workload or an arm has no such name, or the file to keep runs in is another bench's.
    """
    began, cores = time.monotonic(), sorted(os.sched_getaffinity(0))
    chosen = _named("--workloads", workloads, list(WORKLOADS))
    named_arms = _named("--arms", arms, ARMS)
    settings = {
        "rows": rows, "cores": cores, "engine": ENGINE, "small_cache": SMALL_CACHE, "machine": machine(),
        "versions": versions(),
    }  # fmt: skip
    kept = KeptRuns(Path(keep) if keep else None, settings)
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder, connect_to_ray(None):
        if metrics:
            return _measure_metrics(metrics_cost.fixed_length(p3(Path(data), rows)), rounds, cores, Path(folder))
        bench = Bench(Path(folder), cores, kept, began + 60 * minutes)
        made = [WORKLOADS[name](Path(data), rows) for name in chosen]
        small = [workload for workload in made if workload.name in _SMALL_CACHE_WORKLOADS]
        bench.run_rounds([workload for workload in made if workload not in small], ENGINE, named_arms, rounds)
        few = [arm for arm in named_arms if arm in _SMALL_CACHE_ARMS]
        bench.run_rounds(small, SMALL_CACHE, few, rounds)
    samples = kept.samples()
    _print_table(samples, KINDLING)
    facts = {
        "rounds": rounds, "sampling": {workload.name: workload.sampling for workload in made},
        "ray_grid_tokens_per_second": bench.grid, "busy_at_rest": bench.busy_share,
        "first_row_seconds": bench.first_row_seconds,
    }  # fmt: skip
    return conclude("throughput", {**settings, **facts}, samples, goals_of(samples, bench.first_row_seconds))


def _named(option: str, listed: str, known: Sequence[str]) -> list[str]:
    """Returns the known names that are asked for, in their own order."""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise JobError(option, unknown[0], "there is none of this name", f"name some of {', '.join(known)}")
    return [name for name in known if not names or name in names]


def _measure_metrics(workload: Workload, rounds: int, cores: list[int], folder: Path) -> bool:
    samples = measure_arms(metrics_cost.ARMS, [workload], ENGINE, rounds, cores, folder)
    _print_table(samples, SCRAPED)
    settings = {
        "rows": len(workload.rows), "rounds": rounds, "cores": cores, "engine": ENGINE,
        "sampling": {workload.name: workload.sampling},
    }  # fmt: skip
    return conclude("throughput", settings, samples, metrics_cost.goals_of(samples))


def goals_of(samples: Samples, first_row_seconds: list[float]) -> list[Goal]:
    """Compares the samples with the goals; there is none for an arm that was not run."""
    goals = []
    for workload, arms in samples.items():
        equal = RAW if workload in _WITHOUT_NUCLEUS else _NUCLEUS
        least = {equal: _MIN_RATIO_TO_EQUAL, _QUEUE: _MIN_RATIO_TO_OTHERS, _RAY: _MIN_RATIO_TO_OTHERS}
        for arm, goal in least.items():
            if KINDLING in arms and arms.get(arm):
                goals.append(Goal(f"{workload}: kindling / {arm}", _ratio(arms, arm).median, goal))
    if first_row_seconds:
        first = statistics.median(first_row_seconds)
        goals.append(Goal("seconds to the first row on a warm pool", first, _MAX_FIRST_ROW_SECONDS, at_least=False))
    return goals


def _ratio(arms: dict[str, list[dict[str, Any]]], arm: str, base: str = KINDLING) -> Ratio:
    return ratio(list(map(_rate, arms[base])), list(map(_rate, arms[arm])))


def _rate(run: dict[str, Any]) -> float:
    """Returns output tokens/s."""
    return run["output_tokens"] / run["seconds"]


def _print_table(samples: Samples, base: str) -> None:
    """Prints a row for each workload and arm; the last column compares the arm `base` with the others."""
    table = Table("workload", "arm", "output tokens/s", "cached share", "tokens a row", f"{base} / arm")
    for workload, arms in samples.items():
        for arm, runs in arms.items():
            last = runs[-1]
            cached = last["cached_prompt_tokens"]
            table.add_row(
                workload, arm, f"{statistics.median(map(_rate, runs)):.0f}",
                "" if cached is None else f"{cached / last['prompt_tokens']:.2f}",
                f"{last['output_tokens'] / last['rows']:.0f}",
                "" if arm == base or base not in arms else str(_ratio(arms, arm, base)),
            )  # fmt: skip
    Console(width=120).print(table)

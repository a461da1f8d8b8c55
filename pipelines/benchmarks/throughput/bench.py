"""`kindling bench throughput`: raw vLLM, the script people write, Ray Data and Kindling, side by side.

All arms serve the same prompts with the same seeds, sampling and engine arguments on the same cores, in alternating
order, and their engines are up before the clock starts. Ratios are of runs in the same round.

    whole          raw `LLM.chat` over all prompts at once: the best that vLLM can do
    chunks         `LLM.chat` over 64 prompts after 64, with a Parquet file after each
    ray            `ray.data.llm` into Parquet, at the best settings of a grid that is tried first
    whole+nucleus  `whole` with Kindling's `top_p` sampler (`services.engines.nucleus`): Kindling beside this arm shows
                   what the scheduling alone gains
    kindling       `kindling augment` on a warm pool

With `--metrics` the cost of metrics is measured instead (`metrics_cost`).
"""

import os
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipelines.benchmarks.report import Goal, Ratio, alternate, conclude, ratio
from pipelines.benchmarks.throughput import metrics_cost
from pipelines.benchmarks.throughput.arms import Baseline, Kindling
from pipelines.benchmarks.throughput.one_at_a_time import KINDLING, RAW, SCRAPED, measure_arms
from pipelines.benchmarks.throughput.worker import Result, Samples
from pipelines.benchmarks.throughput.workloads import WORKLOADS, Workload, WorkloadFiles, p3, p3_openings
from services.cluster import connect_to_ray

ENGINE = {"max_model_len": 2048, "max_num_seqs": 64, "kv_cache_memory_bytes": 2 << 30}
# For the openings of stories with p3. The KV cache holds 3,260 tokens of the embedded model: the eight requests that
# run, and hardly more. An emotion's examples are computed again unless its rows follow each other.
SMALL_CACHE = {"max_model_len": 2048, "max_num_seqs": 8, "kv_cache_memory_bytes": 72 << 20, "block_size": 32}
# (batch_size, max_concurrent_batches). A batch ends with its slowest row, so more rows than the engine runs have to be
# in flight.
GRID = [(16, 16), (64, 8), (64, 16)]
_IDLE_SECONDS = 5.0
ARMS = [RAW, "chunks", "ray", "whole+nucleus", KINDLING]
SMALL_CACHE_ARMS = [RAW, "whole+nucleus", KINDLING]
# `whole+nucleus` has no goal: nobody runs it, it only shows how much of the gain is the scheduling.
_GOALS = {RAW: 0.98, "chunks": 1.25, "ray": 1.25}
_MIN_RATIO_TO_RAW = 0.95
_SMALL_CACHE_GOAL = 1.15
_MAX_FIRST_ROW_SECONDS = 3.0

_console = Console(stderr=True)


class Bench:
    """Prepares workloads in a scratch folder, runs arms, and keeps every sample.

    Attributes:
        grid: output tokens/s of Ray Data by its settings.
        first_row_seconds: seconds to the first row on a warm pool, three times.
    """

    def __init__(self, folder: Path, cores: list[int]) -> None:
        self._folder, self._cores = folder, cores
        self._files: dict[str, WorkloadFiles] = {}
        self._runs = 0
        self.samples: Samples = {}
        self.grid: dict[str, float] = {}
        self.first_row_seconds: list[float] = []

    def run_rounds(
        self, name: str, workloads: list[Workload], engine: dict[str, Any], arms: list[str], rounds: int
    ) -> float:
        """Runs all arms on all workloads `rounds` times.

        Args:
            name: name of the samples; "": the workload's.

        Returns:
            The share of the machine's cores that was in use before the first run.
        """
        with (
            closing(Baseline("raw_vllm", engine, self._cores, self._folder)) as raw,
            closing(Kindling(engine, self._cores)) as kindling,
        ):
            time.sleep(_IDLE_SECONDS)  # the processes just started are still busy
            psutil.cpu_percent()
            busy_share = psutil.cpu_percent(interval=_IDLE_SECONDS) / 100
            batches = self._best_batches(workloads[0], engine) if "ray" in arms else (0, 0)
            for round_ in range(rounds):
                for workload in workloads:
                    for arm in alternate(arms, round_):
                        if arm == "ray":
                            result = self._run_ray(workload, engine, batches)
                        elif arm == KINDLING:
                            result = kindling.run(*self._prepare(workload))
                        else:
                            result = raw.run(arm, *self._prepare(workload))
                        self._keep(name or workload.name, arm, result)
            if not self.first_row_seconds:
                folders = [self._folder / f"first-{number}" for number in range(3)]
                self.first_row_seconds = [kindling.seconds_to_first_row(folder) for folder in folders]
        return busy_share

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
            return worker.run("ray", files, folder, batch_size=batches[0], max_concurrent_batches=batches[1])

    def _prepare(self, workload: Workload) -> tuple[WorkloadFiles, Path]:
        """Returns the workload's files, the same for all arms, and the path of a new folder to write to."""
        if workload.name not in self._files:
            self._files[workload.name] = workload.write(self._folder)
        self._runs += 1
        return self._files[workload.name], self._folder / f"run-{self._runs}"

    def _keep(self, workload: str, arm: str, result: Result) -> None:
        run = asdict(result)
        self.samples.setdefault(workload, {}).setdefault(arm, []).append(run)
        _console.print(f"{workload} {arm}: {result.output_tokens} tokens in {result.seconds:.1f} s, "
                       f"{_rate(run):.0f} tokens/s")  # fmt: skip


def measure(data: str, rows: int, rounds: int, metrics: bool) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with babylm_contexts.parquet, mistral_stories.parquet and alpaca_emotion.jsonl.
        rows: number of rows in each workload.
        rounds: number of runs of each arm on each workload.
        metrics: measures the cost of metrics instead, on prompts of p3.
    """
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder, connect_to_ray(None):
        if metrics:
            return _measure_metrics(metrics_cost.fixed_length(p3(Path(data), rows)), rounds, cores, Path(folder))
        workloads = [make(Path(data), rows) for make in WORKLOADS.values()]
        openings = p3_openings(Path(data), rows)
        bench = Bench(Path(folder), cores)
        busy_share = bench.run_rounds("", workloads, ENGINE, ARMS, rounds)
        first_row_seconds = bench.first_row_seconds
        bench.run_rounds("p3, small cache", [openings], SMALL_CACHE, SMALL_CACHE_ARMS, rounds)
    _print_table(bench.samples, KINDLING)
    settings = {
        "rows": rows, "rounds": rounds, "cores": cores, "engine": ENGINE, "small_cache": SMALL_CACHE,
        "sampling": {workload.name: workload.sampling for workload in [*workloads, openings]},
        "ray_grid_tokens_per_second": bench.grid, "busy_at_rest": busy_share, "first_row_seconds": first_row_seconds,
    }  # fmt: skip
    return conclude("throughput", settings, bench.samples, goals_of(bench.samples, first_row_seconds))


def _measure_metrics(workload: Workload, rounds: int, cores: list[int], folder: Path) -> bool:
    samples = measure_arms(metrics_cost.ARMS, [workload], ENGINE, rounds, cores, folder)
    _print_table(samples, SCRAPED)
    settings = {
        "rows": len(workload.rows), "rounds": rounds, "cores": cores, "engine": ENGINE,
        "sampling": {workload.name: workload.sampling},
    }  # fmt: skip
    return conclude("throughput", settings, samples, metrics_cost.goals_of(samples))


def goals_of(samples: Samples, first_row_seconds: list[float]) -> list[Goal]:
    """Compares the samples with the goals."""
    goals = []
    for workload, arms in samples.items():
        small = "small" in workload
        for arm in (arm for arm in _GOALS if arm in arms):
            rates, goal = _ratio(arms, arm), _SMALL_CACHE_GOAL if small else _GOALS[arm]
            goals.append(Goal(f"{workload}: kindling / {arm}", rates.median, goal))
            if arm == RAW and not small:
                goals.append(Goal(f"{workload}: kindling / {arm}, lowest", rates.low, _MIN_RATIO_TO_RAW))
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
                "" if arm == base else str(_ratio(arms, arm, base)),
            )  # fmt: skip
    Console(width=120).print(table)

"""`kindling bench throughput`: raw vLLM, the script people write, Ray Data and Kindling, side by side.

All arms serve the same prompts with the same seeds, sampling and engine arguments on the same cores, in alternating
order, and their engines are up before the clock starts. Ratios are of runs in the same round.

    whole          raw `LLM.chat` over all prompts at once: the best that vLLM can do
    chunks         `LLM.chat` over 64 prompts after 64, with a Parquet file after each
    ray            `ray.data.llm` into Parquet, at the best settings of a grid that is tried first
    whole+nucleus  `whole` with Kindling's `top_p` sampler (`services.engines.nucleus`): Kindling beside this arm shows
                   what the scheduling alone gains
    kindling       `kindling augment` on a warm pool
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

from pipelines.benchmarks.report import Goal, Ratio, conclude, ratio
from pipelines.benchmarks.throughput.arms import Baseline, Kindling
from pipelines.benchmarks.throughput.worker import Result
from pipelines.benchmarks.throughput.workloads import WORKLOADS, Workload, p3_openings
from services.cluster import connect_to_ray

ENGINE = {"max_model_len": 2048, "max_num_seqs": 64, "kv_cache_memory_bytes": 2 << 30}
# p3 again, for the openings of stories, where the KV cache holds the eight requests that run and hardly more (3,260
# tokens of the embedded model): an emotion's examples are computed anew unless its rows follow each other.
SMALL_CACHE = {"max_model_len": 2048, "max_num_seqs": 8, "kv_cache_memory_bytes": 72 << 20, "block_size": 32}
# (batch_size, max_concurrent_batches); a batch is done with its slowest row, so more rows than the engine runs have to
# be under way.
GRID = [(16, 16), (64, 8), (64, 16)]
_IDLE_SECONDS = 5.0
ARMS = ["whole", "chunks", "ray", "whole+nucleus", "kindling"]
SMALL_CACHE_ARMS = ["whole", "whole+nucleus", "kindling"]
# None beside `whole+nucleus`, which nobody runs: it tells how much of the gain is the scheduling.
_GOALS = {"whole": 0.98, "chunks": 1.25, "ray": 1.25}
_LEAST_RATIO_TO_WHOLE = 0.95
_SMALL_CACHE_GOAL = 1.15
_MOST_FIRST_ROW_SECONDS = 3.0

_console = Console(stderr=True)


class Bench:
    """One bench in its scratch folder: prepares workloads, runs arms, keeps every raw sample."""

    def __init__(self, folder: Path, cores: list[int]) -> None:
        self._folder, self._cores = folder, cores
        self._runs = 0
        self.samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.grid: dict[str, float] = {}
        self.first_row_seconds: list[float] = []

    def measure(
        self, name: str, workloads: list[Workload], engine: dict[str, Any], arms: list[str], rounds: int
    ) -> float:
        """Runs all arms on all workloads `rounds` times; returns the share of the machine's cores in use at rest."""
        with (
            closing(Baseline("raw_vllm", engine, self._cores, self._folder / "raw_vllm.log")) as raw,
            closing(Kindling(engine, self._cores)) as ours,
        ):
            return self._measure(name, workloads, engine, arms, rounds, raw, ours)

    def _measure(
        self,
        name: str,
        workloads: list[Workload],
        engine: dict[str, Any],
        arms: list[str],
        rounds: int,
        raw: Baseline,
        ours: Kindling,
    ) -> float:
        time.sleep(_IDLE_SECONDS)  # what was started has things to do yet
        psutil.cpu_percent()
        at_rest = psutil.cpu_percent(interval=_IDLE_SECONDS) / 100
        batches = self._best_of_grid(workloads[0], engine) if "ray" in arms else (0, 0)
        for round_ in range(rounds):
            for workload in workloads:
                # Alternating order: what runs first may find the machine in another state than what runs last.
                for arm in arms if round_ % 2 == 0 else arms[::-1]:
                    self._keep(name or workload.name, arm, self._run(arm, workload, engine, raw, ours, batches))
        if not self.first_row_seconds:
            self.first_row_seconds = [ours.seconds_to_first_row(self._folder / f"first-{i}") for i in range(3)]
        return at_rest

    def _best_of_grid(self, workload: Workload, engine: dict[str, Any]) -> tuple[int, int]:
        for size, batches in GRID:
            outcome = self._ray(workload, engine, (size, batches))
            self.grid[f"{size}x{batches}"] = outcome.output_tokens / outcome.seconds
            _console.print(f"ray grid: batch_size {size}, max_concurrent_batches {batches}: "
                           f"{self.grid[f'{size}x{batches}']:.0f} output tokens/s")  # fmt: skip
        return max(GRID, key=lambda each: self.grid[f"{each[0]}x{each[1]}"])

    def _run(
        self, arm: str, workload: Workload, engine: dict[str, Any], raw: Baseline, ours: Kindling, batches: Any
    ) -> Result:
        if arm == "ray":
            return self._ray(workload, engine, batches)
        source, requests, output = self._files(workload)
        if arm == "kindling":
            return ours.run(workload, source, output)
        return raw.run(arm, requests, output)

    def _ray(self, workload: Workload, engine: dict[str, Any], batches: tuple[int, int]) -> Result:
        _, requests, output = self._files(workload)
        worker = Baseline("ray_data_llm", engine, self._cores, self._folder / "ray_data_llm.log")
        try:
            # Without stages of their own for tokenizing, which would take the engine's cores: Ray's best on few cores.
            return worker.run(
                "ray", requests, output, batch_size=batches[0], max_concurrent_batches=batches[1], stages=False
            )
        finally:
            worker.close()

    def _files(self, workload: Workload) -> tuple[Path, Path, Path]:
        """The workload's input and requests, the same for all arms, and a new folder to write to."""
        source, requests = self._folder / f"{workload.name}.jsonl", self._folder / f"{workload.name}.json"
        if not requests.exists():
            workload.write(source)
            workload.write_requests(requests, str(source))
        self._runs += 1
        return source, requests, self._folder / f"run-{self._runs}"

    def _keep(self, workload: str, arm: str, outcome: Result) -> None:
        self.samples.setdefault(workload, {}).setdefault(arm, []).append(asdict(outcome))
        _console.print(f"{workload} {arm}: {outcome.output_tokens} tokens in {outcome.seconds:.1f} s, "
                       f"{outcome.output_tokens / outcome.seconds:.0f} tokens/s")  # fmt: skip


def throughput(data: str, rows: int = 192, rounds: int = 3) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with babylm_contexts.parquet, mistral_stories.parquet and alpaca_emotion.jsonl.
        rows: of each workload.
        rounds: runs of each arm on each workload.
    """
    cores = sorted(os.sched_getaffinity(0))
    workloads = [make(Path(data), rows) for make in WORKLOADS.values()]
    openings = p3_openings(Path(data), rows)
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder, connect_to_ray(None):
        bench = Bench(Path(folder), cores)
        at_rest = bench.measure("", workloads, ENGINE, ARMS, rounds)
        first_row_seconds = bench.first_row_seconds
        bench.measure("p3, small cache", [openings], SMALL_CACHE, SMALL_CACHE_ARMS, rounds)
    _print_table(bench.samples)
    settings = {
        "rows": rows, "rounds": rounds, "cores": cores, "engine": ENGINE, "small_cache": SMALL_CACHE,
        "sampling": {workload.name: workload.sampling for workload in [*workloads, openings]},
        "ray_grid_tokens_per_second": bench.grid, "busy_at_rest": at_rest, "first_row_seconds": first_row_seconds,
    }  # fmt: skip
    return conclude("throughput", settings, bench.samples, goals_of(bench.samples, first_row_seconds))


def goals_of(samples: dict[str, dict[str, list[dict[str, Any]]]], first_row_seconds: list[float]) -> list[Goal]:
    """What the samples come to, beside what they should."""
    goals = []
    for workload, arms in samples.items():
        small = "small" in workload
        for arm in (arm for arm in _GOALS if arm in arms):
            found = _ratio(arms, arm)
            wanted = _SMALL_CACHE_GOAL if small else _GOALS[arm]
            goals.append(Goal(f"{workload}: kindling / {arm}", found.median, wanted))
            if arm == "whole" and not small:
                goals.append(Goal(f"{workload}: kindling / {arm}, lowest", found.low, _LEAST_RATIO_TO_WHOLE))
    first = statistics.median(first_row_seconds)
    goals.append(Goal("seconds to the first row on a warm pool", first, _MOST_FIRST_ROW_SECONDS, at_least=False))
    return goals


def _ratio(arms: dict[str, list[dict[str, Any]]], arm: str) -> Ratio:
    return ratio(_rates(arms["kindling"]), _rates(arms[arm]))


def _rates(runs: list[dict[str, Any]]) -> list[float]:
    return [run["output_tokens"] / run["seconds"] for run in runs]


def _print_table(samples: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    table = Table("workload", "arm", "output tokens/s", "cached share", "tokens a row", "kindling / arm")
    for workload, arms in samples.items():
        for arm, runs in arms.items():
            last = runs[-1]
            cached = last["cached_prompt_tokens"]
            table.add_row(
                workload, arm, f"{statistics.median(_rates(runs)):.0f}",
                "" if cached is None else f"{cached / last['prompt_tokens']:.2f}",
                f"{last['output_tokens'] / last['rows']:.0f}",
                "" if arm == "kindling" else str(_ratio(arms, arm)),
            )  # fmt: skip
    Console(width=120).print(table)

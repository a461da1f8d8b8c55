"""The cost of metrics: Kindling whose metrics are read every second, beside Kindling without any.

    kindling with metrics     vLLM's series on Ray's metrics port, and an endpoint of the job that is read every second
    kindling without metrics  neither: `engine.disable_log_stats` and no port

A clock is too coarse for one hundredth, so processor time is compared too: the driver's, and that of the replica's own
process, which hands rows to the engine and keeps vLLM's series. Both engines compute on all cores, one after the other,
and every row runs to its limit, so that both arms do the same work on the same cores. The clock runs from the first
request to the end of the last one: the time that a disk then takes is no cost of metrics.
"""

import statistics
from dataclasses import replace
from typing import Any

from pipelines.benchmarks.report import Goal, ratio
from pipelines.benchmarks.throughput.one_at_a_time import SCRAPED, WITHOUT_METRICS
from pipelines.benchmarks.throughput.worker import Samples
from pipelines.benchmarks.throughput.workloads import Workload

ARMS = [SCRAPED, WITHOUT_METRICS]

_MAX_CPU_SHARE = 0.01
_MIN_RATIO = 0.99
_TOKENS = 64


def fixed_length(workload: Workload) -> Workload:
    """Returns the workload with outputs that do not end before their limit."""
    return replace(workload, sampling={**workload.sampling, "ignore_eos": True, "max_tokens": _TOKENS})


def goals_of(samples: Samples) -> list[Goal]:
    """Compares the samples with the goals: metrics take less than one hundredth."""
    goals = []
    for workload, arms in samples.items():
        scraped, without = arms[SCRAPED], arms[WITHOUT_METRICS]
        shares = [
            (_cpu_seconds(run) - _cpu_seconds(run_without)) / run_without["generating_seconds"]
            for run, run_without in zip(scraped, without, strict=True)
        ]
        clock = ratio(list(map(_rate, scraped)), list(map(_rate, without)))
        cpu = f"{workload}: processor time of metrics / time of the run"
        goals.append(Goal(cpu, statistics.median(shares), _MAX_CPU_SHARE, at_least=False))
        goals.append(Goal(f"{workload}: tokens/s {SCRAPED} / {WITHOUT_METRICS}", clock.median, _MIN_RATIO))
    return goals


def _rate(run: dict[str, Any]) -> float:
    """Returns output tokens/s."""
    return run["output_tokens"] / run["generating_seconds"]


def _cpu_seconds(run: dict[str, Any]) -> float:
    return run["processor_seconds"]["driver"] + run["processor_seconds"]["replica"]

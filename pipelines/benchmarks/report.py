"""Parts that all benchmarks share: the order of arms, ratios, and the end.

Every benchmark ends with a table of goals, and one JSON object from which they can be computed again.
"""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from pipelines.run_folder import versions

Arm = TypeVar("Arm")


@dataclass(frozen=True)
class Goal:
    """One claim: `value` was measured, and has to be at least (or else at most) `goal`."""

    name: str
    value: float
    goal: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """True where the claim holds."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True)
class Ratio:
    """Ratios of paired runs: their median, and the lowest and highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def alternate(arms: Sequence[Arm], round_: int) -> Sequence[Arm]:
    """Returns the arms in the order of a round, which each round reverses.

    The machine's state may differ between the first run of a round and the last, and no arm is to gain by it.
    """
    return arms if round_ % 2 == 0 else arms[::-1]


def ratio(values: Sequence[float], base_values: Sequence[float]) -> Ratio:
    """Divides each value by the base value of the same round."""
    ratios = [value / base for value, base in zip(values, base_values, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def machine() -> dict[str, Any]:
    """Describes the machine on which the bench runs."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(models, "") or platform.processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def conclude(bench: str, settings: dict[str, Any], samples: dict[str, Any], goals: Sequence[Goal]) -> bool:
    """Prints the goals, then the JSON object as the last line; returns whether all goals are met."""
    table = Table("goal", "measured", "to reach", "met")
    for goal in goals:
        sign = "at least" if goal.at_least else "at most"
        table.add_row(goal.name, f"{goal.value:.4g}", f"{sign} {goal.goal:g}", "yes" if goal.met else "NO")
    Console(width=120).print(table)
    document = {
        "bench": bench,
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "samples": samples,
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
    }
    print(json.dumps(document))
    return all(goal.met for goal in goals)

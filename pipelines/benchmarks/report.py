"""What every benchmark ends with: goals met or missed, and one JSON object from which they can be computed again."""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipelines.run_folder import versions


@dataclass(frozen=True)
class Goal:
    """One claim. `at_least` or not, `value` is what was measured and `goal` what was to be reached."""

    name: str
    value: float
    goal: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the claim holds."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True)
class Ratio:
    """Ratios of paired runs: their median, and the lowest and highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of what was measured in the same round."""
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "cpu": model or platform.processor(),
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


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []

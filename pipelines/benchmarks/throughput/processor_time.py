"""Processor time of each kind of process on this machine: where the cores' time goes while an arm is measured."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# Names of processes, or parts of their command lines, and the kind that they are of; the first that fits counts.
_KINDS = (
    ("VLLM::", "engine"),
    ("ray::Replica", "replica"),
    ("raylet/raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray/_private/log_monitor", "log monitor"),
    ("ray/dashboard", "dashboard"),
    ("ray/_private", "ray agents"),
    ("ray::", "ray workers"),
    ("benchmarks.throughput.", "script"),
)
OTHERS = "others"


@contextmanager
def processor_seconds() -> Iterator[dict[str, float]]:
    """Measures while the block runs; the dictionary is filled when it ends.

    Its keys are `driver` (this process), the kinds of processes that are alive at the end, `others` (all that runs on
    the machine besides) and `idle`. Together they are the time of all cores.
    """
    before, machine_before = _by_process(), psutil.cpu_times()
    seconds: dict[str, float] = {}
    yield seconds
    machine = psutil.cpu_times()
    totals: dict[str, float] = {}
    for process, (kind, used) in _by_process().items():
        totals[kind] = totals.get(kind, 0.0) + used - before.get(process, (kind, 0.0))[1]
    idle = machine.idle + machine.iowait - machine_before.idle - machine_before.iowait
    # Linux counts a guest's time in `user` too.
    spent = sum(machine[:8]) - sum(machine_before[:8]) - idle
    seconds |= {kind: round(used, 3) for kind, used in totals.items()}
    seconds |= {OTHERS: round(max(spent - sum(totals.values()), 0.0), 3), "idle": round(idle, 3)}


def _by_process() -> dict[tuple[int, float], tuple[str, float]]:
    """Returns the kind and the seconds of each process that has a kind, by its identity: a number may be used again."""
    used = {}
    own = psutil.Process().pid
    for process in psutil.process_iter(["name", "cmdline", "cpu_times", "create_time"]):
        info = process.info
        words = f"{info['name']} {' '.join(info['cmdline'] or ())}"
        kind = "driver" if process.pid == own else next((kind for part, kind in _KINDS if part in words), None)
        if kind and info["cpu_times"]:
            used[process.pid, info["create_time"]] = kind, info["cpu_times"].user + info["cpu_times"].system
    return used

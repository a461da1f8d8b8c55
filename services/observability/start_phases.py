"""Phases of a job's start, each with its usual length: one source for the bar, the log and `kindling check`.

The lengths on a CPU are those of the embedded model, on two busy cores and on quiet ones; on a GPU those of 7B models
in 4 and in 16 bits (`docs/measurements/gpu-*.json`). A larger model, or one that is downloaded first, takes longer.
"""

from dataclasses import dataclass
from time import monotonic

# A span that may take so long is given in minutes.
_MIN_MINUTES_SECONDS = 120

command_began: float | None = None
"""when the command began, on the monotonic clock: bars show the time from then on; None where Python calls Kindling"""


def start_clock() -> None:
    """Starts the clock of the command; called before the imports that take seconds, so that their time counts."""
    global command_began
    command_began = monotonic()


@dataclass(frozen=True)
class Phase:
    """One phase of a start.

    Attributes:
        name: the work that is done, as `loading the model`.
        seconds: shortest and longest usual length, in seconds; None where nothing is usual.
    """

    name: str
    seconds: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name + (f" (usually {format_span(*self.seconds)})" if self.seconds else "")


MODEL = Phase("loading the model", (5, 30))
"""phase of an evaluation's own actors, without vLLM"""
CLASSIFIER = Phase("loading the classifier (usually 5 to 30 s), then the first shard")
"""phase of a labelling"""
RAY = Phase("starting Ray on this machine", (3, 15))
_PROCESS_SECONDS = (2, 10)
# Phases of an engine in their order, each with its usual seconds on a CPU and on a GPU.
_ENGINE_SECONDS = {
    "importing vLLM": ((8, 25), (10, 30)),
    "loading the model": ((10, 45), (15, 60)),
    "warming up": ((2, 15), (30, 90)),
}
IMPORTING, LOADING, WARMING_UP = _ENGINE_SECONDS


def engine_phase(name: str, on_gpu: bool) -> Phase:
    """Returns the phase of an engine's start with this name."""
    return Phase(name, _ENGINE_SECONDS[name][on_gpu])


def waiting_phase(resources: str) -> Phase:
    """Returns the phase in which a replica gets its resources, as `1 GPU`, and its process."""
    return Phase(f"waiting for {resources}", _PROCESS_SECONDS)


def engine_start(on_gpu: bool) -> Phase:
    """Returns the whole start of an engine as one phase."""
    spans = [_PROCESS_SECONDS, *(seconds[on_gpu] for seconds in _ENGINE_SECONDS.values())]
    return Phase("starting an engine", (sum(low for low, _ in spans), sum(high for _, high in spans)))


def format_span(low: int, high: int) -> str:
    """Formats two durations in seconds, as `5 to 20 s` or `1 to 3 minutes`."""
    return f"{low} to {high} s" if high < _MIN_MINUTES_SECONDS else f"{max(low // 60, 1)} to {-(-high // 60)} minutes"

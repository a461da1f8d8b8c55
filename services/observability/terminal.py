"""Progress of a long job on stderr: a bar on a terminal; without a terminal the job writes a line once a minute."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from schemas.text import clock
from services.observability import logs, start_phases
from services.observability.start_phases import Phase

_log = logging.getLogger("kindling")

# Time between two progress lines of a job without a terminal.
LINE_SECONDS = 60.0


def shows_bars() -> bool:
    """Returns whether stderr is a terminal that a person reads."""
    return sys.stderr.isatty() and not logs.is_structured()


class Bar:
    """A progress bar; shows nothing where stderr is not a terminal.

    Args:
        total: number of items; None for work without any, of which only description and time are shown.

    Attributes:
        shown: whether the bar is visible.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.shown = shows_bars()
        counts = () if total is None else (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        columns = (TextColumn("{task.description}"), *counts, TimeElapsedColumn())
        self._progress = Progress(
            *columns, console=Console(stderr=True), disable=not self.shown, transient=total is None
        )
        self._task = self._progress.add_task(description, total=total, note="")
        self._progress.tasks[0].start_time = start_phases.command_began or monotonic()
        self._phase: Phase | None = None
        self._phase_began = self._logged_at = 0.0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, **changes: Any) -> None:
        """Changes `completed`, `note` or `description`; cheap enough to call for each row."""
        self._progress.update(self._task, **changes)

    def show_phase(self, phase: Phase) -> None:
        """Shows a phase of the job's start; without a terminal logs a line at its begin, and one a minute."""
        now = monotonic()
        is_new = phase != self._phase
        if is_new:
            self._phase, self._phase_began = phase, now
        if self.shown:
            self._progress.update(self._task, description=str(phase))
        elif is_new or now - self._logged_at > LINE_SECONDS:
            self._logged_at = now
            seconds = round(now - self._phase_began)
            facts = {"event": "starting", "phase": phase.name, "seconds": seconds, "usual_seconds": phase.seconds}
            _log.info("%s%s", phase, f", {clock(seconds)} so far" if seconds else "", extra={"facts": facts})


class JobLines:
    """A line for each of several jobs on stderr: in place on a terminal, once a minute in a log.

    Args:
        names: names of the jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._logged_at = names, monotonic()
        self._rows = Progress(
            TextColumn("{task.description}", markup=False), TextColumn("{task.fields[line]}", markup=False),
            console=Console(stderr=True), disable=not shows_bars(),
        )  # fmt: skip
        self._tasks = [self._rows.add_task(name, line="") for name in names]

    def __enter__(self) -> "JobLines":
        self._rows.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._rows.stop()

    def update(self, lines: Sequence[str], is_running: Sequence[bool]) -> None:
        """Shows the line of each job; in a log those of the jobs that run."""
        for task, line in zip(self._tasks, lines, strict=True):
            self._rows.update(task, line=line)
        if self._rows.disable and monotonic() - self._logged_at > LINE_SECONDS:
            self._logged_at = monotonic()
            for name, line, runs in zip(self._names, lines, is_running, strict=True):
                if runs:
                    _log.info("%s: %s", name, line)


@contextmanager
def shown_phase(phase: Phase) -> Iterator[None]:
    """Inside the block a phase is shown on a terminal; otherwise a line is logged."""
    with Bar("", None) as bar:
        bar.show_phase(phase)
        yield

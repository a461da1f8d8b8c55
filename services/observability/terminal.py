"""Progress of a long job on stderr: a bar on a terminal; without a terminal the job writes a line once a minute."""

import logging
import sys
from collections.abc import Iterator
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


@contextmanager
def shown_phase(phase: Phase) -> Iterator[None]:
    """Inside the block a phase is shown on a terminal; otherwise a line is logged."""
    with Bar("", None) as bar:
        bar.show_phase(phase)
        yield

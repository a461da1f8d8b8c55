"""How a long job shows itself on stderr: a bar on a terminal, and elsewhere lines that the job writes now and then."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.observability import logs

# Without a terminal, one line this often.
LINE_SECONDS = 60.0


def shows_bars() -> bool:
    """Whether stderr is a terminal, and read by a person."""
    return sys.stderr.isatty() and not logs.is_structured()


class Bar:
    """A progress bar; where stderr is no terminal it shows nothing.

    Attributes:
        shown: whether there is a terminal to show it.
    """

    def __init__(self, description: str, total: int) -> None:
        self.shown = shows_bars()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not self.shown)
        self._task = self._progress.add_task(description, total=total, note="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, **what: Any) -> None:
        """Shows something else: `completed`, `note`, `description`; cheap to call often."""
        self._progress.update(self._task, **what)


def clock(seconds: float) -> str:
    """`03:10`, and from an hour on `1:03:10`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"

"""Progress of a long job on stderr: a bar on a terminal; without a terminal the job writes a line once a minute."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.observability import logs

# Time between two progress lines of a job without a terminal.
LINE_SECONDS = 60.0


def shows_bars() -> bool:
    """Returns whether stderr is a terminal that a person reads."""
    return sys.stderr.isatty() and not logs.is_structured()


class Bar:
    """A progress bar; shows nothing where stderr is not a terminal.

    Attributes:
        shown: whether the bar is visible.
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

    def update(self, **changes: Any) -> None:
        """Changes `completed`, `note` or `description`; cheap enough to call for each row."""
        self._progress.update(self._task, **changes)

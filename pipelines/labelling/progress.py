"""Progress of a label job: a bar on a terminal, or else a log line each minute, however long a shard takes."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from pipelines.labelling.contexts import LabelCounts
from schemas.text import clock
from services.observability.start_phases import CLASSIFIER
from services.observability.terminal import LINE_SECONDS, Bar

_log = logging.getLogger("kindling")


class LabelProgress:
    """Shows the counts of a run.

    Args:
        run: name of the run.
        totals: counts of the committed shards; the job adds each shard that it commits.
        shards: number of shards of the run.
    """

    def __init__(self, run: str, totals: LabelCounts, shards: int) -> None:
        self._run, self._totals, self._total = run, totals, shards
        self._first: tuple[int, float] | None = None

    @contextmanager
    def shown(self) -> Iterator[Callable[[], None]]:
        """Inside the block the progress is shown; yields a callable to be called after each commit of a shard."""
        with Bar("shards", self._total) as bar, _each_minute(lambda: None if bar.shown else self._log_line()):

            def advance() -> None:
                # Time counts from the first commit on: before it, most of the time is the start of the actors.
                self._first = self._first or (self._shards, monotonic())
                left = self.seconds_left()
                bar.update(
                    description="shards", completed=self._shards, note="" if left is None else f"{clock(left)} left"
                )

            bar.update(completed=self._shards)
            bar.show_phase(CLASSIFIER)
            yield advance

    @property
    def _shards(self) -> int:
        return self._totals.counts["shards"]

    def seconds_left(self) -> float | None:
        """Estimates the seconds left, at the pace since the first shard of this start; None before the second shard."""
        if self._first is None or self._shards == self._first[0]:
            return None
        shards, at = self._first
        return (monotonic() - at) / (self._shards - shards) * (self._total - self._shards)

    def _log_line(self) -> None:
        counts, left = self._totals.counts, self.seconds_left()
        facts = {
            "event": "progress", "run": self._run, "shards": self._shards, "shards_total": self._total,
            "kept": counts["kept"], "sentences": counts["sentences"],
            "eta_seconds": None if left is None else round(left, 1),
        }  # fmt: skip
        _log.info(
            "%d of %d shards, %d of %d sentences kept%s", self._shards, self._total, counts["kept"],
            counts["sentences"], "" if left is None else f", about {clock(left)} left", extra={"facts": facts},
        )  # fmt: skip


@contextmanager
def _each_minute(call: Callable[[], None]) -> Iterator[None]:
    """Inside the block a thread calls `call` each minute: the main thread waits for the next shard."""
    ended = threading.Event()

    def keep_calling() -> None:
        while not ended.wait(LINE_SECONDS):
            call()

    thread = threading.Thread(target=keep_calling, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

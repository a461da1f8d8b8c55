"""How far a label job is: a bar on a terminal, and a line a minute in a log, however long a shard takes."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from pipelines.labelling.contexts import Tally
from services.observability.terminal import LINE_SECONDS, Bar, clock

_log = logging.getLogger("kindling")


class LabelProgress:
    """Tells what the tally of a run holds.

    Args:
        run: its name.
        tally: its shards are added to it as they are committed, those of earlier starts before.
        total: shards of the run.
    """

    def __init__(self, run: str, tally: Tally, total: int) -> None:
        self._run, self._tally, self._total = run, tally, total
        self._first: tuple[int, float] | None = None

    @contextmanager
    def shown(self) -> Iterator[Callable[[], None]]:
        """Inside the block the progress is shown; yields what is to be called when a shard was committed."""
        with Bar("shards", self._total) as bar, _each_minute(lambda: None if bar.shown else self._tell_line()):

            def advance() -> None:
                # What the first ones took is the start of the actors for the most part.
                self._first = self._first or (self._shards, monotonic())
                left = self.seconds_left()
                bar.update(completed=self._shards, note="" if left is None else f"{clock(left)} left")

            bar.update(completed=self._shards)
            yield advance

    @property
    def _shards(self) -> int:
        return self._tally.counts["shards"]

    def seconds_left(self) -> float | None:
        """At the pace since this start's first shard; None until there is a second."""
        if self._first is None or self._shards == self._first[0]:
            return None
        shards, at = self._first
        return (monotonic() - at) / (self._shards - shards) * (self._total - self._shards)

    def _tell_line(self) -> None:
        counts, left = self._tally.counts, self.seconds_left()
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
def _each_minute(tell: Callable[[], None]) -> Iterator[None]:
    """Inside the block `tell` is called each minute, by a thread: the job itself waits for its next shard."""
    ended = threading.Event()

    def keep_telling() -> None:
        while not ended.wait(LINE_SECONDS):
            tell()

    thread = threading.Thread(target=keep_telling, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

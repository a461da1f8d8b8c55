"""The page of `kindling status`: plain lines that fit any terminal, and the base of all kinds of status."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from services.observability.terminal import clock

# Lines of one list where the height of the page is not bounded; `--json` has all entries.
_MAX_LIST_LINES = 10


class Status(ABC):
    """Progress of one run; the base of the status of each kind of run.

    Attributes:
        name: name of the run.
        complete: nothing is left to do.
    """

    name: str
    complete: bool

    @abstractmethod
    def line(self) -> str:
        """The status in one line."""

    @abstractmethod
    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Lines that are always shown, and lists of lines that may be cut to fit the page."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""


def render_page(status: Status, now: datetime, width: int, height: int | None = None) -> list[str]:
    """Lines of the page of a status.

    Args:
        now: the time from which ages are counted.
        width: maximum number of characters in a line; longer lines are cut.
        height: maximum number of lines, to which lists are cut; None for no maximum.
    """
    lines, lists = status.page(now, width)
    sizes = [len(entries) for entries in lists]
    room = [_MAX_LIST_LINES] * len(lists) if height is None else _share_lines(height - len(lines), sizes)
    for entries, max_lines in zip(lists, room, strict=True):
        if len(entries) > max_lines:
            entries = [*entries[: max_lines - 1], f"{'':10}and {len(entries) - max_lines + 1} more"][:max_lines]
        lines += entries
    return [line if len(line) <= width else f"{line[: width - 3]}..." for line in map(_printable, lines)]


def titled_list(title: str, entries: Sequence[str]) -> list[str]:
    """Lines of a list whose first line begins with the title."""
    return [f"{title if number == 0 else '':9} {text}" for number, text in enumerate(entries)]


def progress_bar(done: int, total: int, width: int) -> str:
    """A bar of `#` and `-`, at most `width` and 80 characters long."""
    room = max(min(width, 80) - 2, 1)
    full = room * done // total
    return f"[{'#' * full}{'-' * (room - full)}]"


def age(moment: str, now: datetime) -> str:
    """Time since a moment (ISO 8601), as hours, minutes and seconds."""
    return clock(max((now - datetime.fromisoformat(moment)).total_seconds(), 0.0))


def time_left(seconds: float | None, low: float | None = None, high: float | None = None) -> str:
    """Text of an ETA with its 90% interval, to be appended to a line; empty where there is no ETA."""
    if seconds is None:
        return ""
    if low is None:
        return f", about {clock(seconds)} left"
    bound = f"to {clock(high)}" if high is not None else "on, with no upper bound yet"
    return f", about {clock(seconds)} (90%: {clock(low)} {bound}) left"


def current_time() -> datetime:
    """The current time, as `render_page` takes it."""
    return datetime.now(UTC)


def _printable(text: str) -> str:
    """The text without control characters, which files and endpoints may hold, and which would move the cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _share_lines(room: int, wanted: list[int]) -> list[int]:
    """Number of lines that each list gets: all that it wants where there is room, else an equal share."""
    given = [0] * len(wanted)
    while room > 0 and (short := [i for i, (has, wants) in enumerate(zip(given, wanted, strict=True)) if has < wants]):
        for i in short[:room]:
            given[i] += 1
        room -= len(short[:room])
    return given

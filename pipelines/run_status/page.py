"""The page of `kindling status`: plain lines that fit any terminal, and the base of all kinds of status."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Self

from pipelines.result import Result
from schemas.text import clock, shorten
from services.storage.lease import LastDriver

# Lines of one list where the height of the page is not bounded; `--json` has all entries.
_MAX_LIST_LINES = 10
_MAX_ERROR_CHARACTERS = 400


State = Literal["running", "stopped", "failed", "complete", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Status(Result, ABC):
    """Progress of one run; the base of the status of each kind of run.

    Attributes:
        run: the run folder.
        name: name of the run.
        kind: kind of its job: the name of the verb.
        complete: nothing is left to do.
        state: `running` while a process works on the run; `complete`; `failed` where its last start ended with an
            error, or parts of it failed; else `stopped`. `unknown` where it cannot be known if a process works on it.
        error: error of the last start; of a stopped run the cause of the stop. Empty where there is none.
        command: command of the last start; the same command resumes the run. Empty where no command is known.
    """

    run: str
    name: str
    kind: str
    complete: bool
    state: State = "unknown"
    error: str = ""
    command: str = ""

    def after(self, driver: LastDriver) -> Self:
        """Returns this status with the state that follows from its last driver."""
        state: State
        if self.complete and not self.has_failed_parts:
            state = "complete"
        elif driver.is_running or self.is_answered:
            state = "running"
        elif driver.is_running is None:
            state = "unknown"
        else:
            state = "failed" if driver.ended == "failed" or self.has_failed_parts else "stopped"
        error = driver.error if state in ("stopped", "failed") else ""
        return replace(self, state=state, error=error, command=driver.command)

    @property
    def has_failed_parts(self) -> bool:
        """Returns whether a complete run has parts that failed, which the same command tries again."""
        return False

    @property
    def is_answered(self) -> bool:
        """Returns whether the endpoint of a running job answered."""
        return False

    def state_text(self) -> str:
        """The state, as the first line of a page has it."""
        return "not complete" if self.state == "unknown" else self.state

    def remedy_lines(self) -> list[str]:
        """Lines of a page that say why the run ended, and how to go on."""
        if self.state not in ("stopped", "failed"):
            return []
        title = "error" if self.state == "failed" else "stopped"
        lines = titled_list(title, [shorten(self.error, _MAX_ERROR_CHARACTERS)]) if self.error else []
        again = self.command or f"run the same `kindling {self.kind}` again: it resumes"
        return [*lines, *titled_list("go on", [f"{again}{'   (mend the error first)' if title == 'error' else ''}"])]

    @abstractmethod
    def line(self) -> str:
        """The status in one line."""

    @abstractmethod
    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Lines that are always shown, and lists of lines that may be cut to fit the page."""


@dataclass(frozen=True, kw_only=True)
class EndpointStatus(Status):
    """Status of a run whose job has an endpoint.

    Attributes:
        source: `endpoint` where the running job told how far it is, else `disk`.
        silent: why no endpoint did; empty where one did, or none was asked, as no job runs.
    """

    source: str
    silent: str

    @property
    def is_answered(self) -> bool:
        """Returns whether the endpoint of the running job answered."""
        return self.source == "endpoint"

    def silence_lines(self) -> list[str]:
        """Line of a page that says why its figures are from disk; none where the endpoint answered or was not asked."""
        return [f"from disk: {self.silent}"] if self.silent else []


def render_page(status: Status, now: datetime, width: int, height: int | None = None) -> list[str]:
    """Lines of the page of a status.

    Args:
        now: the time from which ages are counted.
        width: maximum number of characters in a line; longer lines are cut.
        height: maximum number of lines, to which lists are cut; None for no maximum.
    """
    lines, lists = status.page(now, width)
    lines = [*lines, *status.remedy_lines()]
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

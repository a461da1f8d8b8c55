"""The errors a person sees. Each names the key, the value, the cause and the remedy, and fits on one screen."""

from typing import Any

from schemas.text import shorten

EXIT_DONE = 0
EXIT_FAULTS = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes


class KindlingError(Exception):
    """An error with a remedy.

    Args:
        key: what the error is about: a job key such as `input.path`, a file, an option. May be empty.
        value: the value found there, or None where there is none to show.
        cause: what is wrong with it, in one sentence.
        remedy: what to do about it, in one sentence.
    """

    exit_code = EXIT_USAGE

    def __init__(self, key: str, value: Any, cause: str, remedy: str) -> None:
        # All four go to Exception.args so that the error survives pickling between Ray processes.
        super().__init__(key, value, cause, remedy)
        self.key, self.value, self.cause, self.remedy = key, value, cause, remedy

    def facts(self) -> dict[str, str]:
        """The same for a program that reads the log."""
        value = "" if self.value is None else shorten(self.value)
        return {"key": shorten(self.key), "value": value, "cause": self.cause, "remedy": self.remedy}

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {shorten(self.value)}"
        head = f"{shorten(self.key)}{shown}: " if self.key else ""
        return f"{head}{self.cause}\n  remedy: {self.remedy}"


class JobError(KindlingError):
    """The job file, an option or the input is wrong; what was finished before is kept."""


class RunError(KindlingError):
    """The run folder does not fit the job, or cannot be read or written."""


class UnreadableError(RunError):
    """A file of the run cannot be read for the file system's sake, which says nothing of what it holds."""


class EngineError(KindlingError):
    """The model or the engine could not be started, or keeps dying."""


class StoppedError(KindlingError):
    """The job stopped before its end and what is finished is kept; the same command resumes."""

    exit_code = EXIT_STOPPED

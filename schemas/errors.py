"""Errors that a person sees. Each names the key, the value, the cause and the remedy, and fits on one screen."""

import errno
import re
from typing import Any

from schemas.secrets import without_secrets
from schemas.text import shorten

# Exit codes of the command line.
EXIT_DONE = 0
EXIT_FAULTS = 1  # the command ended, and found faults or could not do a part of its work
EXIT_USAGE = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes

_DENIED = (errno.EACCES, errno.EPERM)
# Failures of the request itself: the same request fails again.
_PERMANENT = (*_DENIED, errno.EINVAL, errno.ENOSYS, errno.ENAMETOOLONG)


class KindlingError(Exception):
    """Base of all errors that have a remedy.

    Args:
        key: name of the faulty thing: a job key such as `input.path`, a file, an option. May be empty.
        value: value of that key, or None where there is none to show.
        cause: reason of the error, in one sentence.
        remedy: steps that repair it, in one sentence.
    """

    exit_code = EXIT_USAGE

    def __init__(self, key: str, value: Any, cause: str, remedy: str) -> None:
        # All four go to Exception.args: pickle rebuilds an exception from its args, and Ray pickles errors.
        super().__init__(key, value, cause, remedy)
        self.key, self.value, self.cause, self.remedy = key, value, cause, remedy

    def log_fields(self) -> dict[str, str]:
        """Returns key, value, cause and remedy as separate fields of a JSON log line."""
        value = "" if self.value is None else shorten(self.value)
        fields = {"key": shorten(self.key), "value": value, "cause": self.cause, "remedy": self.remedy}
        return {name: without_secrets(text) for name, text in fields.items()}

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {shorten(self.value)}"
        head = f"{shorten(self.key)}{shown}: " if self.key else ""
        return without_secrets(f"{head}{self.cause}\n  remedy: {self.remedy}")


class JobError(KindlingError):
    """Fault of the job file, an option or the input. Finished work is kept."""


class RunError(KindlingError):
    """Fault of a run folder: it does not fit the job, or cannot be read or written."""


class UnreadableError(RunError):
    """Failure of the file system to read a file of the run. The file's content may be whole."""


class EngineError(KindlingError):
    """Failure of the model or the engine: it does not start, or keeps dying."""


class StoppedError(KindlingError):
    """Stop of a job before its end. Finished work is kept, and the same command resumes."""

    exit_code = EXIT_STOPPED

    def resuming(self, command: str) -> str:
        """Returns the command that goes on, given the one that was stopped."""
        return command


class BudgetError(StoppedError):
    """Stop of a job whose budget is used up. Its key is the limit, and the job goes on with a higher one."""

    def resuming(self, command: str) -> str:
        """Returns the command with a place for the higher limit; empty where no command is known."""
        words = re.sub(rf" --set[ =]{re.escape(self.key)}=\S+", "", command)
        return f"{words} --set {self.key}=MORE" if command else ""


class StoreError(OSError):
    """Failure of a remote file system: it cannot be reached, refuses the request, or fails.

    Attributes:
        is_transient: true where the same request may succeed later.
        remedy: steps that repair it, in one sentence.
    """

    @property
    def is_transient(self) -> bool:
        """True where the same request may succeed later."""
        return self.errno not in _PERMANENT

    @property
    def remedy(self) -> str:
        """Steps that repair it, in one sentence."""
        if self.errno in _DENIED:
            return (
                "give credentials that may read and write there (on S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment), or name another place"
            )
        if self.is_transient:
            return "see that this machine reaches it (an S3 server of your own: AWS_ENDPOINT_URL), and run it again"
        return "correct the URL or the storage options, or name another place"

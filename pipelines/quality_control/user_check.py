"""A user's own check: a Python file with `check(text, inputs)`, which returns the reason to reject a text, or "".

Invariant: the file's code runs only where a job says `quality.allow_code: true`. Its source is read once, where the job
starts, and travels with the rules: every replica runs the same code, which is part of the run's identity.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from schemas.errors import JobError
from schemas.quality import Quality
from schemas.rows import RowError
from schemas.text import shorten

_KEY = "quality.check"
_FUNCTION = "check"
_EXAMPLE = "write `def check(text, inputs): ...`, which returns the reason to reject a text, or an empty text"


@dataclass(frozen=True)
class UserCheck:
    """The check of a job; made by `read_user_check`.

    Attributes:
        path: file of the check, as the job names it.
        source: content of the file.
    """

    path: str
    source: str

    @property
    def hash(self) -> str:
        """Hash of the file's content."""
        return sha256(self.source.encode()).hexdigest()[:16]

    def __call__(self, text: str, inputs: dict[str, Any]) -> str:
        """Returns the reason to reject a text; "" where there is none.

        Args:
            text: the text.
            inputs: fields of the input row, by name.

        Raises:
            RowError: the check raises an exception, or returns no text.
        """
        try:
            reason = _load(self)(text, dict(inputs))
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise RowError(f"{_KEY} {shorten(self.path)} raised {shorten(cause)}") from None
        if not isinstance(reason, str):
            raise RowError(f"{_KEY} {shorten(self.path)} returned {type(reason).__name__}, not a text")
        return shorten(reason.strip())


def read_user_check(quality: Quality) -> UserCheck | None:
    """Reads the check that a job names, and runs its file once; None where the job names none.

    Raises:
        JobError: the file is missing, cannot be run, or has no function `check` of two arguments.
    """
    if quality.check is None:
        return None
    try:
        check = UserCheck(quality.check, Path(quality.check).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        cause = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise JobError(_KEY, quality.check, cause, "name a Python file") from None
    try:
        inspect.signature(_load(check)).bind("", {})
    except _MissingFunctionError:
        raise JobError(_KEY, quality.check, f"the file has no function `{_FUNCTION}`", _EXAMPLE) from None
    except (Exception, SystemExit) as error:
        place = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        cause = f"the file cannot be used: {type(error).__name__}{place}: {shorten(str(error))}"
        raise JobError(_KEY, quality.check, cause, f"correct it; {_EXAMPLE}") from None
    return check


class _MissingFunctionError(Exception):
    pass


@functools.lru_cache(maxsize=8)
def _load(check: UserCheck) -> Callable[[str, dict[str, Any]], Any]:
    """Runs the file of a check once in each process, and returns its function."""
    module = ModuleType(f"kindling_user_check_{check.hash}")
    module.__file__ = check.path
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    exec(compile(check.source, check.path, "exec"), vars(module))
    function = getattr(module, _FUNCTION, None)
    if not callable(function):
        raise _MissingFunctionError
    return function

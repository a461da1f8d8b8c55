"""What a command says on standard error while it works: lines for a person, or JSON for what collects logs.

Libraries are quiet: what one of them has to say names no key of a job and no remedy. A switch lets them be heard.
"""

import json
import logging
import math
import os
import sys
from datetime import UTC, datetime
from typing import Any

_log = logging.getLogger("kindling")

_VERBOSITIES = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
_OWN_HANDLERS = ("transformers", "huggingface_hub")
"""write their log to stderr themselves, once they are imported"""
_NO_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def set_up(structured: bool = False, dependencies: bool = False) -> None:
    """To be called by a command at its start, and again when it knows what it is asked for.

    Args:
        structured: one JSON object a line, and no progress bar.
        dependencies: libraries are heard too, those in Ray's workers with them.
    """
    handler = _StderrHandler(structured, dependencies)
    logging.basicConfig(level=logging.INFO if dependencies else logging.ERROR, handlers=[handler], force=True)
    logging.captureWarnings(True)
    _log.setLevel(logging.INFO)
    for library in _OWN_HANDLERS:
        _hear(library)
    if structured:
        sys.excepthook = lambda *error: _log.critical("ended by a fault of Kindling's own", exc_info=error)


class _Heard(logging.Logger):
    """A library's, which gets no handler of its own and always passes on what is said."""

    propagate = property(lambda self: True, lambda self, _: None)

    def addHandler(self, hdlr: logging.Handler) -> None:
        """See `logging.Logger.addHandler`."""


def _hear(library: str) -> None:
    before = logging.getLoggerClass()
    logging.setLoggerClass(_Heard)
    logging.getLogger(library)  # before the library is imported; where it was, it has its own already
    logging.setLoggerClass(before)


def set_environment() -> None:
    """The same for libraries that go by the environment, here and in workers, once it is known what is asked for."""
    for name in _VERBOSITIES:
        os.environ.setdefault(name, "info" if dependencies_are_logged() else "error")
    for name in _NO_BARS if is_structured() else ():
        os.environ.setdefault(name, "1")


def capture_library_log(library: str) -> bool:
    """Lets a library that writes its log to stderr itself write it here, where this is set up; whether it is."""
    if not _handlers():
        return False
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True
    return True


def is_structured() -> bool:
    """Whether standard error is read by a program: it then has no progress bar."""
    return any(handler.structured for handler in _handlers())


def dependencies_are_logged() -> bool:
    """Whether libraries are to be heard."""
    return any(handler.dependencies for handler in _handlers())


def report(text: str, **facts: Any) -> None:
    """Says how a command ended: `text` as it stands for a person, or an object with `facts` too."""
    if is_structured():
        _log.error("%s", text, extra={"facts": facts})
    else:
        print(text, file=sys.stderr)


def log_worker_lines(batch: dict[str, Any]) -> None:
    """Logs lines of one of Ray's workers, vLLM's among them, as Ray hands them to a driver."""
    logger = logging.getLogger("worker")
    for line in batch.get("lines", ()):
        logger.info("%s", line, extra={"facts": {name: batch.get(name) for name in ("actor_name", "pid", "ip")}})


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is now: a progress bar replaces it, so that log lines appear above the bar."""

    def __init__(self, structured: bool, dependencies: bool) -> None:
        super().__init__()
        self.structured, self.dependencies = structured, dependencies
        self._least = logging.INFO if dependencies else logging.ERROR
        self.setFormatter(_Json() if structured else _Text(datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        # A level of its own lets a library's record pass by that of the root.
        if record.levelno < self._least and record.name != _log.name:
            return
        print(self.format(record), file=sys.stderr, flush=True)


class _Text(logging.Formatter):
    """`12:03:11 warning: replica 3 died`; of a library its name too."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        library = "" if record.name == _log.name else f"{record.name}: "
        return f"{self.formatTime(record, self.datefmt)} {level}{library}{record.message}"

    def usesTime(self) -> bool:
        return False


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message, and the facts of the message by name."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            # JSON has neither NaN nor infinity.
            **{
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in getattr(record, "facts", {}).items()
            },
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def _handlers() -> list[_StderrHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _StderrHandler)]

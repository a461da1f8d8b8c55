"""Log of a command on standard error: lines for a person, or one JSON object a line for a log collector.

The log lines of libraries are left out unless `--log-dependencies` asks for them: a library's line names no key of a
job file and no remedy.
"""

import json
import logging
import math
import os
import sys
from datetime import UTC, datetime
from typing import Any

from schemas.secrets import without_secrets

_log = logging.getLogger("kindling")

_VERBOSITY_VARIABLES = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
# Libraries that add a handler for stderr to their logger when they are imported.
_LIBRARIES_WITH_HANDLERS = ("transformers", "huggingface_hub")
_NO_BARS_VARIABLES = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def set_up(structured: bool = False, dependencies: bool = False) -> None:
    """Sets up the log. A command calls it at its start, and again once its options are known.

    Args:
        structured: write one JSON object a line, and show no progress bar.
        dependencies: log the lines of libraries too, in this process and in Ray's workers.
    """
    handler = _StderrHandler(structured, dependencies)
    logging.basicConfig(level=logging.INFO if dependencies else logging.ERROR, handlers=[handler], force=True)
    logging.captureWarnings(True)
    _log.setLevel(logging.INFO)
    for library in _LIBRARIES_WITH_HANDLERS:
        _create_logger_without_handlers(library)
    if structured:
        sys.excepthook = lambda *error: _log.critical("ended by a fault of Kindling's own", exc_info=error)


class _LoggerWithoutHandlers(logging.Logger):
    """Logger that ignores its library's handlers and always passes records to the root logger."""

    propagate = property(lambda self: True, lambda self, _: None)

    def addHandler(self, hdlr: logging.Handler) -> None:
        """Ignores the handler; see `logging.Logger.addHandler`."""


def _create_logger_without_handlers(library: str) -> None:
    """Creates a library's logger before the library is imported; afterwards it has no effect."""
    class_before = logging.getLoggerClass()
    logging.setLoggerClass(_LoggerWithoutHandlers)
    logging.getLogger(library)
    logging.setLoggerClass(class_before)


def set_environment() -> None:
    """Sets the variables that make libraries quiet, for this process and its workers; needs `set_up` before."""
    for name in _VERBOSITY_VARIABLES:
        os.environ.setdefault(name, "info" if dependencies_are_logged() else "error")
    for name in _NO_BARS_VARIABLES if is_structured() else ():
        os.environ.setdefault(name, "1")


def capture_library_log(library: str) -> bool:
    """Sends the log of a library that writes to stderr itself to this log.

    Returns:
        whether it does; False if `set_up` was not called.
    """
    if not _handlers():
        return False
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True
    return True


def is_structured() -> bool:
    """Returns whether the log is JSON: a program reads standard error, and there is no progress bar."""
    return any(handler.structured for handler in _handlers())


def dependencies_are_logged() -> bool:
    """Returns whether the lines of libraries are logged."""
    return any(handler.dependencies for handler in _handlers())


def report(text: str, **facts: Any) -> None:
    """Reports the end of a command: `text` alone for a person, or a JSON object with `facts` too."""
    if is_structured():
        _log.error("%s", text, extra={"facts": facts})
    else:
        print(without_secrets(text), file=sys.stderr)


def log_worker_lines(batch: dict[str, Any]) -> None:
    """Logs lines of one of Ray's workers, vLLM's among them, in the form in which Ray sends them to a driver."""
    logger = logging.getLogger("worker")
    for line in batch.get("lines", ()):
        logger.info("%s", line, extra={"facts": {name: batch.get(name) for name in ("actor_name", "pid", "ip")}})


class _StderrHandler(logging.Handler):
    """Writes to the current `sys.stderr`: a progress bar replaces it, so that log lines appear above the bar."""

    def __init__(self, structured: bool, dependencies: bool) -> None:
        super().__init__()
        self.structured, self.dependencies = structured, dependencies
        self._min_library_level = logging.INFO if dependencies else logging.ERROR
        self.setFormatter(_JsonFormatter() if structured else _TextFormatter(datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record unless its library is left out; see `logging.Handler.emit`."""
        # Not left to the root logger's level: a library that sets the level of its own logger bypasses that.
        if record.levelno < self._min_library_level and record.name != _log.name:
            return
        print(without_secrets(self.format(record)), file=sys.stderr, flush=True)


class _TextFormatter(logging.Formatter):
    """Formats `12:03:11 warning: replica 3 died`; a library's line has the library's name too."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        library = "" if record.name == _log.name else f"{record.name}: "
        return f"{self.formatTime(record, self.datefmt)} {level}{library}{record.message}"

    def usesTime(self) -> bool:
        return False


class _JsonFormatter(logging.Formatter):
    """Formats one object a line: time, level, logger, message, and the facts of the message by name."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
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
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _handlers() -> list[_StderrHandler]:
    """Handlers that `set_up` installed: one, or none."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _StderrHandler)]

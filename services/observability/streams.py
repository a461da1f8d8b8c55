"""Standard output and error of a command, which drop what cannot be printed.

A terminal that is closed, a log reader that ended (`kindling augment job.yaml 2>&1 | tee log`) and a full disk under a
log file must not end a job, nor change its exit code.
"""

import errno
import io
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from schemas.errors import RunError

_STDOUT, _STDERR = 1, 2
# The pipe's reader has ended; the terminal is gone.
_UNREAD = (errno.EPIPE, errno.EIO)


class _DroppingStream(io.TextIOWrapper):
    """Text stream whose writes succeed where nobody can read them any more.

    Args:
        descriptor: its file descriptor, which stays open.
        old: stream of Python for the same descriptor; None where the caller had closed it.
    """

    def __init__(self, descriptor: int, old: TextIO | None) -> None:
        encoding, errors = (old.encoding, old.errors) if old is not None else ("utf-8", "backslashreplace")
        is_stderr = descriptor == _STDERR
        buffer = io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False))
        super().__init__(buffer, encoding, errors, line_buffering=is_stderr or os.isatty(descriptor))
        self._descriptor = descriptor
        self._writing = threading.local()
        self._drops_all = is_stderr  # a full disk under the log, too

    def write(self, text: str) -> int:
        """Writes a text, or drops it; see `io.TextIOBase.write`."""
        with self._dropping() as is_interrupting:
            if is_interrupting:
                os.write(self._descriptor, text.encode(self.encoding, "backslashreplace"))
            else:
                super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream where it can be written; see `io.IOBase.flush`."""
        with self._dropping() as is_interrupting:
            if not is_interrupting:
                super().flush()

    @contextmanager
    def _dropping(self) -> Iterator[bool]:
        """Drops what cannot be written inside the block.

        Yields:
            whether this is the handler of a signal that interrupted a write of the same thread. The buffer refuses a
            second write below the first.
        """
        is_interrupting = getattr(self._writing, "now", False)
        self._writing.now = True
        try:
            yield is_interrupting
        except OSError as error:
            if not self._drops_all and error.errno not in _UNREAD:
                self._drops_all = True  # what is left of the result would be tried again at the end of the process
                remedy = "make room, or write the result elsewhere, and run the command again"
                raise RunError("standard output", None, f"cannot be written: {error.strerror}", remedy) from None
        finally:
            self._writing.now = is_interrupting


def set_up() -> None:
    """Replaces `sys.stdout` and `sys.stderr`. Results on standard output are dropped only where nobody reads them."""
    for descriptor in (0, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:  # closed by the caller: the next file of the run would get this number, and messages
            os.open(os.devnull, os.O_RDWR)
    if not isinstance(sys.stdout, _DroppingStream):
        sys.stdout = _DroppingStream(_STDOUT, sys.stdout)
    if not isinstance(sys.stderr, _DroppingStream):
        sys.stderr = _DroppingStream(_STDERR, sys.stderr)


def is_stdout_read() -> bool:
    """Returns whether standard output may still be read; False once a pipe's reader ended, or the terminal is gone."""
    poll = select.poll()
    poll.register(_STDOUT, 0)
    return not poll.poll(0)

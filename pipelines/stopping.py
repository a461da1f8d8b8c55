"""How a job is told to end: SIGTERM, as a spot node, Kubernetes, Slurm or `ray job stop` sends it, or Ctrl-C."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

_log = logging.getLogger("kindling")

# Kept of the grace for what follows the last row: committing, and ending the engines.
_ENDING_SECONDS = 5.0


@contextmanager
def stop_signals(grace_seconds: float) -> Iterator[Callable[[], float | None]]:
    """Inside the block a signal asks for an end; a second one ends the process at once, as it usually would.

    Args:
        grace_seconds: from SIGTERM until the sender loses patience. Ctrl-C has none: whoever types it waits.

    Yields:
        A call that tells the seconds in which rows in flight may still come to their end, or None while no signal came.
    """
    deadline: float | None = None

    def stop_within() -> float | None:
        return None if deadline is None else max(deadline - monotonic(), 0.0)

    if threading.current_thread() is not threading.main_thread():
        yield stop_within  # only the main thread may set handlers; a notebook's cell runs there
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: object) -> None:
        nonlocal deadline
        grace = max(grace_seconds - _ENDING_SECONDS, 0.0) if number == signal.SIGTERM else 0.0
        deadline = monotonic() + grace
        waiting = f"rows in flight have {grace:.0f} s more, " if grace else ""
        _log.warning(
            "stopping: %swhat is finished is kept, and the same command resumes; once more ends it at once", waiting
        )
        for each in old:
            signal.signal(each, signal.SIG_DFL)

    for number in old:
        signal.signal(number, on_signal)
    try:
        yield stop_within
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)

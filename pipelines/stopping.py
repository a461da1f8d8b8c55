"""Stop signals: SIGTERM (from a spot node, Kubernetes, Slurm or `ray job stop`) and Ctrl-C end a job in good order.

Invariant: inside the block the first signal raises no exception. The job polls `stop_within` at points where all its
state is consistent, and ends itself there; only a second signal ends the process at once.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

_log = logging.getLogger("kindling")

# Part of the grace period that is kept for the work after the last row: committing shards and stopping engines.
_ENDING_SECONDS = 5.0


@contextmanager
def stop_signals(grace_seconds: float) -> Iterator[Callable[[], float | None]]:
    """Inside the block the first stop signal is remembered; a second one ends the process at once, as it usually would.

    Args:
        grace_seconds: seconds between SIGTERM and the SIGKILL of its sender. After Ctrl-C rows in flight get no time:
            a person waits.

    Yields:
        `stop_within`: a callable that returns None until a stop signal came, then the seconds left for rows in flight.
    """
    deadline: float | None = None

    def stop_within() -> float | None:
        return None if deadline is None else max(deadline - monotonic(), 0.0)

    if threading.current_thread() is not threading.main_thread():
        yield stop_within  # Python lets only the main thread set handlers (a notebook's cell runs there)
        return
    old_handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: object) -> None:
        nonlocal deadline
        grace = max(grace_seconds - _ENDING_SECONDS, 0.0) if number == signal.SIGTERM else 0.0
        deadline = monotonic() + grace
        waiting = f"rows in flight have {grace:.0f} s more, " if grace else ""
        _log.warning(
            "stopping: %sfinished rows are kept, and the same command resumes; a second signal ends it at once", waiting
        )
        # With the default handlers a second signal ends the process, even if it hangs.
        for stop_signal in old_handlers:
            signal.signal(stop_signal, signal.SIG_DFL)

    for number in old_handlers:
        signal.signal(number, on_signal)
    try:
        yield stop_within
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)

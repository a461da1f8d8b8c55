"""Stop signals end a job in good order: SIGTERM (from a spot node, Kubernetes, Slurm or `ray job stop`), SIGHUP (the
terminal was closed) and Ctrl-C.

Invariant: inside the block no signal but the last raises an exception or ends the process. The job polls `stop_within`
at points where all its state is consistent, and ends itself there.

The first signal lets rows in flight end. A second one ends that wait, and finished rows are still committed. The third
ends the process at once. Signals within two seconds of the first repeat it: a service manager may send two, and a
closed terminal is reported by the shell and by the kernel. A person may press Ctrl-C twice within that time, so its
repetition counts; only a wrapper that passes on the same one is faster.
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
_REPEAT_SECONDS = 2.0
_CTRL_C_REPEAT_SECONDS = 0.3


@contextmanager
def stop_signals(grace_seconds: float, is_resumable: bool = True) -> Iterator[Callable[[], float | None]]:
    """Inside the block stop signals are remembered; only the third ends the process at once, as it usually would.

    Args:
        grace_seconds: seconds between SIGTERM and the SIGKILL of its sender. After Ctrl-C rows in flight get the same
            time: whoever does not want to wait presses it again.
        is_resumable: whether finished work is kept.

    Yields:
        `stop_within`: a callable that returns None until a stop signal came, then the seconds left for rows in flight.
    """
    deadline: float | None = None
    signalled_at = 0.0

    def stop_within() -> float | None:
        return None if deadline is None else max(deadline - monotonic(), 0.0)

    if threading.current_thread() is not threading.main_thread():
        yield stop_within  # Python lets only the main thread set handlers (a notebook's cell runs there)
        return
    old_handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if old_handlers[signal.SIGHUP] == signal.SIG_IGN:
        del old_handlers[signal.SIGHUP]  # `nohup` asks for that

    def on_signal(number: int, frame: object) -> None:
        nonlocal deadline, signalled_at
        now = monotonic()
        if deadline is None:
            deadline, signalled_at = now + max(grace_seconds - _ENDING_SECONDS, 0.0), now
            give_up = "; Ctrl-C, or a second signal, gives up rows in flight" if deadline > now else ""
            kept = "what is finished is kept, and the same command resumes" if is_resumable else "nothing is kept"
            _log.warning("stopping: %s%s", kept, give_up)
        elif now - signalled_at > (_CTRL_C_REPEAT_SECONDS if number == signal.SIGINT else _REPEAT_SECONDS):
            deadline = now
            _log.warning("stopping without rows in flight; a further signal ends the process at once")
            # The default handlers end the process, even if it hangs.
            for stop_signal in old_handlers:
                signal.signal(stop_signal, signal.SIG_DFL)

    for number in old_handlers:
        signal.signal(number, on_signal)
    try:
        yield stop_within
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)

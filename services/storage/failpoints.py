"""Places at which a process kills itself when it is asked to: how a test dies inside a commit, between two steps of it.

`KINDLING_FAILPOINT=data.synced:3` in the environment lets the process SIGKILL itself when it passes `data.synced` for
the third time. Without the variable a failpoint does nothing.
"""

import os
import signal


def _steps_of_writing(what: str) -> tuple[str, ...]:
    # Half of it is under a temporary name; all of it is, and durable; it has its name, and its folder is not synced.
    return f"{what}.half", f"{what}.synced", f"{what}.renamed"


# From the first step of a shard's commit to the last.
COMMIT = (
    "commit.begun",
    *_steps_of_writing("sibling"),
    "commit.siblings",  # rejected and failed rows are in place, the data file is not
    *_steps_of_writing("data"),
    "commit.data",  # the shard is committed, its log is still there
    "commit.dropped",
)
NAMES = (
    "log.started",  # a shard's log was begun anew under its temporary name, and is not in place yet
    "log.half",  # half of a record is in the log
    "log.appended",
    *COMMIT,
    *_steps_of_writing("file"),  # of any other: run.json, the card, the index
)

_asked, _, _times = os.environ.get("KINDLING_FAILPOINT", "").partition(":")
if _asked and (_asked not in NAMES or not _times.isdigit()):
    raise ValueError(f"KINDLING_FAILPOINT={_asked}:{_times}: not NAME:N with a name of {', '.join(NAMES)}")
_left = int(_times or 0)


def failpoint(name: str) -> None:
    """Passes the place of this name, or dies there."""
    global _left
    if name == _asked:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

"""Places at which a process kills itself when it is asked to: how a test dies inside a commit, between two steps of it.

`KINDLING_FAILPOINT=write.synced:3` in the environment lets the process SIGKILL itself when it passes `write.synced` for
the third time. Without the variable a failpoint does nothing.
"""

import os
import signal

NAMES = (
    "log.started",  # a shard's log was begun anew under its temporary name, and is not in place yet
    "log.half",  # half of a record is in the log
    "log.appended",
    "commit.begun",
    "write.half",  # half of a file is under its temporary name
    "write.synced",  # all of it is, and durable
    "write.renamed",  # it has its name, and its folder is not synced
    "commit.siblings",  # rejected and failed rows are in place, the data file is not
    "commit.data",  # the shard is committed, its log is still there
    "commit.dropped",
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

"""Points at which a process kills itself on request: with them a test kills it between two steps of a commit.

`KINDLING_FAILPOINT=data.synced:3` in the environment makes the process send itself SIGKILL when it passes
`data.synced` for the third time. Without the variable a failpoint does nothing.
"""

import os
import signal


def _writing_steps(prefix: str) -> tuple[str, ...]:
    """Failpoints of `write_atomic`.

    half: half of the content is in the temporary file. synced: all of it is, and durable. renamed: the file has its
    final name, and its folder is not synced yet.
    """
    return f"{prefix}.half", f"{prefix}.synced", f"{prefix}.renamed"


# From the first step of a shard's commit to the last.
COMMIT = (
    "commit.begun",
    *_writing_steps("sibling"),
    "commit.siblings",  # rejected rows and errors are in place, the data file is not
    *_writing_steps("data"),
    "commit.data",  # the shard is committed, its log is still there
    "commit.dropped",
)
NAMES = (
    "log.started",  # a shard's log was started under its temporary name, and is not in place yet
    "log.half",  # half of a record is in the log
    "log.appended",
    *COMMIT,
    *_writing_steps("file"),  # of any other file: run.json, the dataset card, the index
)

_active_name, _, _count = os.environ.get("KINDLING_FAILPOINT", "").partition(":")
if _active_name and (_active_name not in NAMES or not _count.isdigit()):
    raise ValueError(f"KINDLING_FAILPOINT={_active_name}:{_count}: not NAME:N with a name of {', '.join(NAMES)}")
_passes_left = int(_count or 0)


def failpoint(name: str) -> None:
    """Marks a failpoint: kills this process if the environment asks for it here."""
    global _passes_left
    if name == _active_name:
        _passes_left -= 1
        if _passes_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

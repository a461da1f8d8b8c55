"""CPU cores of this machine that one engine alone computes on.

Every engine would else bind itself from core 0 on: two on one machine then share its first cores and leave the rest
idle. The claims are file locks, so that they hold among replicas of all jobs and pools of a user on the machine, and
end with the process that made them, however it ends.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from schemas.errors import EngineError


class CoreClaim:
    """Claims cores for as long as this object lives.

    Args:
        count: cores wanted. Where fewer are free those are taken; where none is, cores are shared with other engines.

    Attributes:
        cores: numbers of the cores, as the operating system counts them.
        missing: how many of those that were wanted other engines have.
    """

    def __init__(self, count: int) -> None:
        folder = _own_folder(Path(tempfile.gettempdir()) / f"kindling-cores-{os.getuid()}")
        # Threads of one core stand beside each other, so that no two engines compute on the same core.
        usable = sorted(os.sched_getaffinity(0), key=lambda core: (_threads_of_core(core)[0], core))
        self._locks: list[TextIOWrapper] = []
        claimed: list[int] = []
        for core in usable:
            if len(claimed) < count and (lock := _locked(folder / str(core))):
                self._locks.append(lock)
                claimed.append(core)
        self.missing = min(count, len(usable)) - len(claimed)
        self.cores = tuple(claimed or usable[:count])


def one_thread_of_each(cores: Sequence[int]) -> list[int]:
    """Of the threads of one core the first: matrices gain nothing from the others, and would wait for each other."""
    first: dict[int, int] = {}
    for core in sorted(cores):
        first.setdefault(_threads_of_core(core)[0], core)
    return sorted(first.values())


def _threads_of_core(core: int) -> list[int]:
    """Numbers of the hardware threads that share this one's core, itself among them."""
    try:
        listed = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
        bounds = [part.split("-") for part in listed.strip().split(",")]
        return sorted(number for low, *high in bounds for number in range(int(low), int((high or [low])[0]) + 1))
    except (OSError, ValueError):
        return [core]


def _own_folder(path: Path) -> Path:
    """A folder that no other user made, or may write in: what lies in it is opened for writing.

    Raises:
        EngineError: somebody else was there first.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        remedy = "have it removed, or set TMPDIR to a folder of your own"
        raise EngineError("TMPDIR", str(path), "this is not a folder of yours alone", remedy)
    return path


def _locked(path: Path) -> TextIOWrapper | None:
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file

"""Reserves CPU cores of this machine, so that each engine computes on cores of its own.

By default every engine binds itself to cores from core 0 on. Two engines on one machine then share the first cores and
leave the others idle. A reservation is a file lock per core: it holds among all jobs and warm pools of one user on the
machine, and the kernel releases it when the process ends, however it ends.
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
    """A reservation of cores that lasts as long as this object.

    Args:
        count: number of cores wanted. Where fewer are free, those are taken. Where none is free, the engine shares the
            first cores with other engines.

    Attributes:
        cores: numbers of the cores, as the operating system counts them.
        missing: how many of the wanted cores are reserved by other engines.

    Raises:
        EngineError: the folder of the locks belongs to another user, or other users may write to it.
    """

    def __init__(self, count: int) -> None:
        folder = _private_folder(Path(tempfile.gettempdir()) / f"kindling-cores-{os.getuid()}")
        # Hardware threads of one core are neighbours in this order, so that two engines do not share a core.
        usable = sorted(os.sched_getaffinity(0), key=lambda core: (_threads_of_core(core)[0], core))
        self._locks: list[TextIOWrapper] = []
        claimed: list[int] = []
        for core in usable:
            if len(claimed) < count and (lock := _try_lock(folder / str(core))):
                self._locks.append(lock)
                claimed.append(core)
        self.missing = min(count, len(usable)) - len(claimed)
        self.cores = tuple(claimed or usable[:count])


def one_thread_per_core(cores: Sequence[int]) -> list[int]:
    """Returns the first hardware thread of each core.

    Matrix products gain nothing from a core's other threads, and the threads would wait for each other.
    """
    first: dict[int, int] = {}
    for core in sorted(cores):
        first.setdefault(_threads_of_core(core)[0], core)
    return sorted(first.values())


def _threads_of_core(core: int) -> list[int]:
    """Returns the numbers of the hardware threads on the same core as this one, itself included."""
    try:
        siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
        ranges = [part.split("-") for part in siblings.strip().split(",")]
        return sorted(number for low, *high in ranges for number in range(int(low), int((high or [low])[0]) + 1))
    except (OSError, ValueError):
        return [core]


def _private_folder(path: Path) -> Path:
    """Creates a folder that only this user may write to.

    Files in it are opened for writing, so a folder (or a link) that another user prepared would be an attack.

    Raises:
        EngineError: the folder exists and belongs to another user, or other users may write to it.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        cause = "the folder of core reservations is not private: another user owns it or may write to it"
        raise EngineError("TMPDIR", str(path), cause, "remove the folder, or set TMPDIR to a folder of your own")
    return path


def _try_lock(path: Path) -> TextIOWrapper | None:
    """Returns the locked file, or None where another process holds the lock."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file

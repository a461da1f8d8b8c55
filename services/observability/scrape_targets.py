"""How Prometheus finds the jobs of a host by itself: each has a file in one folder, which its `file_sd_configs` names.

A file is there for as long as its job runs. A killed job leaves its own, which Prometheus shows as down until the next
job of the same user takes it away.
"""

import contextlib
import fcntl
import glob
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator

_log = logging.getLogger("kindling")

# The folder may be one in which others put files, too.
_PREFIX = "kindling-"
_EVERY_ADDRESS = ("0.0.0.0:", "[::]:")


@contextlib.contextmanager
def target_file(address: str, folder: str, **labels: str) -> Iterator[None]:
    """Inside the block Prometheus finds an address.

    A folder that cannot be written is a warning: whoever scrapes the address itself needs none.

    Args:
        address: `host:port`, as `reachable_address` has it.
        labels: of all series that are found there.
    """
    with contextlib.ExitStack() as until_the_end:
        try:
            _open_folder(folder)
            _remove_stale(folder)
            until_the_end.enter_context(_entry(folder, {"targets": [address], "labels": labels}))
        except OSError as error:
            _log.warning(
                "Prometheus will not find this job by itself, as %s cannot be written: %s. Name another folder in "
                "metrics.targets, or scrape http://%s/metrics", folder, error.strerror or error, address,
            )  # fmt: skip
        yield


@contextlib.contextmanager
def _entry(folder: str, group: dict[str, object]) -> Iterator[None]:
    name = f"{_PREFIX}{secrets.token_hex(4)}"
    temporary, path = os.path.join(folder, f".{name}"), os.path.join(folder, f"{name}.json")
    # Locked for as long as this process lives, however it ends: so others know a file that nobody needs any more.
    lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.fchmod(lock, 0o644)  # Prometheus runs as another user
        os.write(lock, json.dumps([group]).encode())
        os.rename(temporary, path)
        yield
    finally:
        for each in (temporary, path):
            with contextlib.suppress(OSError):
                os.unlink(each)
        os.close(lock)


def _open_folder(folder: str) -> None:
    """Makes the folder, as open as the one it lies in: in /tmp it is for the jobs of all users."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(folder)
        os.chmod(folder, os.stat(os.path.dirname(os.path.abspath(folder))).st_mode & 0o7777)


def _remove_stale(folder: str) -> None:
    for path in glob.glob(os.path.join(glob.escape(folder), f"{_PREFIX}*.json")):
        with contextlib.suppress(OSError):  # its job runs, or it is another user's
            # In a folder that all may write to it may be a pipe, or a link.
            # To write: NFS locks no file that is open for reading alone.
            lock = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(lock)


def reachable_address(address: str) -> str:
    """What others ask for: for one that listens on all addresses, the name of this host."""
    if address.startswith(_EVERY_ADDRESS):
        return f"{socket.gethostname()}:{address.rpartition(':')[2]}"
    return address

"""Files by which Prometheus finds the jobs of a host: `file_sd_configs` names their folder, and each job has one file.

A file lies there while its job runs. A killed job leaves its file, and Prometheus shows the job as down, until the next
job of the same user removes the file.
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

# Other programs may put files into the same folder.
_PREFIX = "kindling-"
_ALL_INTERFACES = ("0.0.0.0:", "[::]:")


@contextlib.contextmanager
def target_file(address: str, folder: str, **labels: str) -> Iterator[None]:
    """Lets Prometheus find an address inside the block.

    A folder that cannot be written causes a warning only: the address can be scraped without a file, too.

    Args:
        address: `host:port`, see `reachable_address`.
        folder: folder of the target files; made if it is missing.
        labels: labels of all series at the address.
    """
    with contextlib.ExitStack() as at_end:
        try:
            _make_shared_folder(folder)
            _remove_stale_files(folder)
            at_end.enter_context(_locked_file(folder, {"targets": [address], "labels": labels}))
        except OSError as error:
            _log.warning(
                "Prometheus will not find this job, as %s cannot be written: %s. Name another folder in "
                "metrics.targets, or scrape http://%s/metrics", folder, error.strerror or error, address,
            )  # fmt: skip
        yield


@contextlib.contextmanager
def _locked_file(folder: str, target_group: dict[str, object]) -> Iterator[None]:
    """Keeps a target file in the folder inside the block, locked by this process."""
    name = f"{_PREFIX}{secrets.token_hex(4)}"
    temporary, path = os.path.join(folder, f".{name}"), os.path.join(folder, f"{name}.json")
    # The kernel releases the lock when this process ends in any way: a file without a lock belongs to no living job.
    lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.fchmod(lock, 0o644)  # Prometheus runs as another user
        os.write(lock, json.dumps([target_group]).encode())
        os.rename(temporary, path)  # so that Prometheus never reads half a file
        yield
    finally:
        for leftover in (temporary, path):
            with contextlib.suppress(OSError):
                os.unlink(leftover)
        os.close(lock)


def _make_shared_folder(folder: str) -> None:
    """Makes the folder with the access rights of its parent: in /tmp the jobs of all users write to it."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(folder)
        os.chmod(folder, os.stat(os.path.dirname(os.path.abspath(folder))).st_mode & 0o7777)


def _remove_stale_files(folder: str) -> None:
    """Removes the files of jobs that were killed."""
    for path in glob.glob(os.path.join(glob.escape(folder), f"{_PREFIX}*.json")):
        with contextlib.suppress(OSError):  # its job runs, or the file is another user's
            # O_RDWR: NFS locks no file that is open for reading only. O_NONBLOCK and O_NOFOLLOW: in a folder that all
            # users may write to, the path may be a pipe or a symbolic link.
            lock = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(lock)


def reachable_address(address: str) -> str:
    """Address at which other machines reach an endpoint; the name of this host replaces "all interfaces"."""
    if address.startswith(_ALL_INTERFACES):
        return f"{socket.gethostname()}:{address.rpartition(':')[2]}"
    return address

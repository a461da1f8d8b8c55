"""Files by which Prometheus finds the jobs of a host: `file_sd_configs` names their folder, and each job has one file.

A file lies there while its job runs. A killed job leaves its file, and Prometheus shows the job as down, until the next
job of the same user removes the file.

Invariant: files are made and removed in the folder alone. In /tmp another user may have put a link in its place, or may
replace the folder at any time. It is opened once, and all names are looked up in what was opened.
"""

import contextlib
import errno
import fcntl
import fnmatch
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
            opened = at_end.enter_context(_opened(folder))
            _remove_stale_files(opened)
            at_end.enter_context(_locked_file(opened, {"targets": [address], "labels": labels}))
        except OSError as error:
            _log.warning(
                "Prometheus will not find this job, as %s cannot be written: %s. Name another folder in "
                "metrics.targets, or scrape http://%s/metrics", folder, error.strerror or error, address,
            )  # fmt: skip
        yield


@contextlib.contextmanager
def _locked_file(folder: int, target_group: dict[str, object]) -> Iterator[None]:
    """Keeps a target file in the folder (its descriptor) inside the block, locked by this process."""
    name = f"{_PREFIX}{secrets.token_hex(4)}"
    temporary, path = f".{name}", f"{name}.json"
    # The kernel releases the lock when this process ends in any way: a file without a lock belongs to no living job.
    lock = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.fchmod(lock, 0o644)  # Prometheus runs as another user
        os.write(lock, json.dumps([target_group]).encode())
        os.rename(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)  # so that Prometheus never reads half a file
        yield
    finally:
        for leftover in (temporary, path):
            with contextlib.suppress(OSError):
                os.unlink(leftover, dir_fd=folder)
        os.close(lock)


def _make_shared_folder(folder: str) -> None:
    """Makes the folder with the access rights of its parent: in /tmp the jobs of all users write to it."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(folder)
        os.chmod(folder, os.stat(os.path.dirname(os.path.abspath(folder))).st_mode & 0o7777)


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    """Yields a descriptor of the folder; a link is followed only where this user, or the administrator, made it.

    Raises:
        OSError: another user made the link, or the folder cannot be opened.
    """
    if os.path.islink(folder):
        if os.lstat(folder).st_uid not in (0, os.getuid()):
            raise OSError(errno.ELOOP, "it is a link that another user made")
        folder = os.path.realpath(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove_stale_files(folder: int) -> None:
    """Removes the files of jobs that were killed from the folder (its descriptor)."""
    for path in fnmatch.filter(os.listdir(folder), f"{_PREFIX}*.json"):
        with contextlib.suppress(OSError):  # its job runs, or the file is another user's
            # O_RDWR: NFS locks no file that is open for reading only. O_NONBLOCK and O_NOFOLLOW: in a folder that all
            # users may write to, the path may be a pipe or a symbolic link.
            lock = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path, dir_fd=folder)
            finally:
                os.close(lock)


def reachable_address(address: str) -> str:
    """Address at which other machines reach an endpoint; the name of this host replaces "all interfaces"."""
    if address.startswith(_ALL_INTERFACES):
        return f"{socket.gethostname()}:{address.rpartition(':')[2]}"
    return address

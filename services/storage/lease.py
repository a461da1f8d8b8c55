"""The lease of a run folder: the right of one driver at a time to write to it.

Invariant: at any time at most one driver passes `Lease.check`, and each driver checks before it writes.

A second driver would generate every row again, and could not tell the first driver's unfinished files from leftovers.

On a local file system the lease is a lock on `run.lock`. The kernel releases it when its holder dies in any way.
Elsewhere the lease is an object that its holder writes again every few seconds. A driver that finds the object watches
it, and takes the holder for dead only when the object has stayed unchanged for long enough. The clocks of two machines
are never compared.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from schemas.errors import RunError
from services.storage.filesystem import is_local, make_folder, require_atomic_writes
from services.storage.store import LOCK_NAME, ShardStore

_log = logging.getLogger("kindling")

# The holder writes the lease object this often; after the second time without a change the lease is void.
_RENEW_SECONDS = 10.0
_VOID_SECONDS = 60.0


class LeaseLostError(OSError):
    """This driver may no longer write: another driver holds the run, or the lock file is gone."""


class Lease(Protocol):
    """Right to write to a run folder."""

    def check(self) -> None:
        """Checks, before each commit, that this driver still holds the run.

        Raises:
            LeaseLostError: another driver holds the run, or the lease could not be renewed.
        """
        ...


@contextlib.contextmanager
def hold_lease(store: ShardStore, lock_name: str = LOCK_NAME, empty_after: bool = False) -> Iterator[Lease]:
    """Holds the lease inside the block: only this process may write to the run folder.

    Args:
        lock_name: file name of the lock.
        empty_after: leave an empty lock file: the folder is a checkpoint, whose content hash must stay the same.

    Raises:
        RunError: another driver holds the lease; the message names it.
        OSError: the folder cannot be written.
    """
    require_atomic_writes(store.fs, store.url)
    lease = _FileLock(store, lock_name, empty_after) if is_local(store.fs) else _RenewedObject(store, lock_name)
    try:
        yield lease
    finally:
        lease.release()


class _FileLock:
    """Lock on a local file. It works on network file systems that support `flock`, such as NFS from version 4 on."""

    def __init__(self, store: ShardStore, name: str, empty_after: bool) -> None:
        self._path, self._empty_after = store.path(name), empty_after
        make_folder(store.root)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _parse_holder(os.read(self._descriptor, 1000))
            os.close(self._descriptor)
            raise _held_by(store, holder) from None
        # The random part distinguishes this lock from that of any other driver, see `check`.
        self._content = f"{_describe_this_driver()}\n{secrets.token_hex(8)}".encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self._content, 0)

    def check(self) -> None:
        """Checks the lock file, see `Lease.check`.

        Holding the descriptor proves nothing: a person may have deleted the file, so that another driver locked a new
        one; and a network file system may have dropped the lock after a lost connection. The content shows both.
        """
        try:
            with open(self._path, "rb") as file:
                content = file.read(len(self._content) + 1)
        except FileNotFoundError:
            raise LeaseLostError(f"{self._path} was removed while the job ran") from None
        if content != self._content:
            raise LeaseLostError(f"{self._path} is another driver's now")

    def release(self) -> None:
        """Releases the lock.

        The file stays. If it were removed, one driver could lock the removed file and another a new one.
        """
        if self._empty_after:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


class _RenewedObject:
    """Lease on a file system without locks: an object that a thread of its own renews."""

    def __init__(self, store: ShardStore, name: str) -> None:
        self._store, self._path, self._nonce = store, store.path(name), secrets.token_hex(8)
        self._ended = threading.Event()
        self._renewals = 0
        self._good_until = 0.0
        self._take()
        self._thread = threading.Thread(target=self._renew, name="kindling-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Checks the time of the last renewal, see `Lease.check`."""
        if _now() > self._good_until:
            raise LeaseLostError(f"{self._path} could not be renewed, or is another driver's now")

    def release(self) -> None:
        """Ends the renewing, and removes the object if it is still this driver's."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_own(self._read()):
                self._store.fs.rm_file(self._path)

    def _take(self) -> None:
        """Takes the lease once nobody renews it.

        Raises:
            RunError: another driver renews it, or took it at the same time.
        """
        content, waited_until = self._read(), time.monotonic() + _VOID_SECONDS
        if content:
            holder = _parse_holder(content)
            _log.info("%s was held by %s; waiting %.0f s for a sign of it", self._store.url, holder, _VOID_SECONDS)
        while content and time.monotonic() < waited_until:
            time.sleep(min(_RENEW_SECONDS / 2, _VOID_SECONDS / 4))
            if (latest := self._read()) and latest != content:
                raise _held_by(self._store, _parse_holder(latest))
            content = latest
        self._write()
        # Two drivers may both have found no holder, and both written. The last write stands: after a pause both read
        # it, and only the driver that wrote it goes on.
        time.sleep(_RENEW_SECONDS / 10)
        if not self._is_own(latest := self._read()):
            raise _held_by(self._store, _parse_holder(latest))

    def _renew(self) -> None:
        """Renews the lease until it is released or lost; runs in the thread."""
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                # Once lost, always lost: a driver that was suspended for minutes must not write over its successor's
                # object.
                if _now() > self._good_until or not self._is_own(self._read()):
                    self._good_until = 0.0
                    return
                self._write()
            except Exception as error:  # each file system has error classes of its own
                _log.warning(
                    "the run's lease could not be renewed, and is tried again (%s). If that goes on for %.0f s the job "
                    "stops, and the same command resumes: see that this machine reaches %s", error, _VOID_SECONDS,
                    self._store.url,
                )  # fmt: skip

    def _write(self) -> None:
        self._renewals += 1  # changes the content, which is what another driver watches
        began = _now()
        lease = {"holder": _describe_this_driver(), "nonce": self._nonce, "renewals": self._renewals}
        self._store.fs.pipe_file(self._path, json.dumps(lease).encode())
        # From the time before the write, and shorter than another driver waits: this driver stops before the other one
        # takes over.
        self._good_until = began + _VOID_SECONDS - _RENEW_SECONDS

    def _read(self) -> bytes:
        """Content of the lease object; empty if there is none."""
        self._store.fs.invalidate_cache(self._store.root)
        try:
            return self._store.fs.cat_file(self._path)
        except FileNotFoundError:
            return b""

    def _is_own(self, content: bytes) -> bool:
        return self._nonce.encode() in content


def _now() -> float:
    """Seconds on a clock that continues while the machine sleeps; `time.monotonic` does not on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _describe_this_driver() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def _parse_holder(content: bytes) -> str:
    """Holder's description from a lock file (its first line) or a lease object (JSON)."""
    try:
        return json.loads(content)["holder"]
    except (ValueError, TypeError, KeyError):
        return content.decode(errors="replace").partition("\n")[0] or "another driver"


def _held_by(store: ShardStore, holder: str) -> RunError:
    cause = f"another driver works on this run: {holder}"
    return RunError("output.path", store.url, cause, "end that one, or wait for it")

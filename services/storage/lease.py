"""One driver at a time: whoever writes to a run folder holds its lease.

A second driver would generate every row again, and its leftovers would look like the first one's. On a local file
system the lease is a lock on `run.lock`, which the kernel lets go of when its holder dies, however it dies. Elsewhere
it is an object that is written anew every few seconds: a driver that finds one waits until it has seen it unchanged
for long enough, and only then takes its holder for dead. Clocks of two machines are never compared.
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
from services.storage.filesystem import is_local, make_folder, refuse_half_files
from services.storage.store import LOCK_NAME, ShardStore

_log = logging.getLogger("kindling")

# A lease elsewhere is renewed this often, and void where it stood unchanged for so long.
_RENEW_SECONDS = 10.0
_VOID_SECONDS = 60.0


class LeaseLostError(OSError):
    """Another driver holds this run now, or its lock is gone: nothing may be written any more."""


class Lease(Protocol):
    """What a holder has."""

    def check(self) -> None:
        """Asked before each commit.

        Raises:
            LeaseLostError: the run is not this driver's any more.
        """
        ...


@contextlib.contextmanager
def leased(store: ShardStore) -> Iterator[Lease]:
    """Inside the block this process alone may write to the run folder.

    Raises:
        RunError: another driver holds it; the error says who.
        OSError: the folder cannot be written.
    """
    refuse_half_files(store.fs, store.url)
    lease = _Lock(store) if is_local(store.fs) else _Renewal(store)
    try:
        yield lease
    finally:
        lease.release()


class _Lock:
    """A lock on a local file. Network file systems bear it where they carry `flock` (NFS since version 4 does)."""

    def __init__(self, store: ShardStore) -> None:
        self._path = store.path(LOCK_NAME)
        make_folder(store.root)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _told(os.read(self._descriptor, 1000))
            os.close(self._descriptor)
            raise _held(store, holder) from None
        self._mine = f"{_who()}\n{secrets.token_hex(8)}".encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self._mine, 0)

    def check(self) -> None:
        """See `Lease.check`: the file may have been deleted, and a network file system may have let go of the lock."""
        try:
            with open(self._path, "rb") as file:
                there = file.read(len(self._mine) + 1)
        except FileNotFoundError:
            raise LeaseLostError(f"{self._path} was removed while the job ran") from None
        if there != self._mine:
            raise LeaseLostError(f"{self._path} is another driver's now")

    def release(self) -> None:
        """Lets go; the file stays, since removing it would open a gap between its holders."""
        os.close(self._descriptor)


class _Renewal:
    """A lease on a file system without locks, renewed by a thread of its own."""

    def __init__(self, store: ShardStore) -> None:
        self._store, self._nonce = store, secrets.token_hex(8)
        self._ended = threading.Event()
        self._renewals = 0
        self._good_until = 0.0
        self._take()
        self._thread = threading.Thread(target=self._renew, name="kindling-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See `Lease.check`."""
        if _now() > self._good_until:
            raise LeaseLostError(f"{self._store.path(LOCK_NAME)} could not be renewed, or is another driver's now")

    def release(self) -> None:
        """Lets go, and removes the object if it is still this driver's."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()):
                self._store.fs.rm_file(self._store.path(LOCK_NAME))

    def _take(self) -> None:
        seen, waited_until = self._read(), time.monotonic() + _VOID_SECONDS
        if seen:
            _log.info("%s was held by %s; waiting %.0f s for a sign of it", self._store.url, _told(seen), _VOID_SECONDS)
        while seen and time.monotonic() < waited_until:
            time.sleep(min(_RENEW_SECONDS / 2, _VOID_SECONDS / 4))
            if (now := self._read()) and now != seen:
                raise _held(self._store, _told(now))
            seen = now
        self._write()
        # Two that found nothing both wrote: the last write stands, and both read it.
        time.sleep(_RENEW_SECONDS / 10)
        if not self._is_mine(now := self._read()):
            raise _held(self._store, _told(now))

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                if _now() > self._good_until or not self._is_mine(self._read()):
                    self._good_until = 0.0
                    return
                self._write()
            except Exception as error:  # each file system has errors of its own
                _log.warning(
                    "the run's lease could not be renewed, and is tried again (%s). If that goes on for %.0f s the job "
                    "stops, and the same command resumes: see that this machine reaches %s", error, _VOID_SECONDS,
                    self._store.url,
                )  # fmt: skip

    def _write(self) -> None:
        self._renewals += 1
        began = _now()
        lease = {"holder": _who(), "nonce": self._nonce, "renewals": self._renewals}
        self._store.fs.pipe_file(self._store.path(LOCK_NAME), json.dumps(lease).encode())
        self._good_until = began + _VOID_SECONDS - _RENEW_SECONDS

    def _read(self) -> bytes:
        self._store.fs.invalidate_cache(self._store.root)
        try:
            return self._store.fs.cat_file(self._store.path(LOCK_NAME))
        except FileNotFoundError:
            return b""

    def _is_mine(self, raw: bytes) -> bool:
        return self._nonce.encode() in raw


def _now() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def _told(raw: bytes) -> str:
    try:
        return json.loads(raw)["holder"]
    except (ValueError, TypeError, KeyError):
        return raw.decode(errors="replace").partition("\n")[0] or "another driver"


def _held(store: ShardStore, holder: str) -> RunError:
    cause = f"another driver works on this run: {holder}"
    return RunError("output.path", store.url, cause, "end that one, or wait for it")

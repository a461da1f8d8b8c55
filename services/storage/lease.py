"""The lease of a run folder: the right of one driver at a time to write to it.

Invariant: at any time at most one driver passes `Lease.check`, and each driver checks before it writes.

A second driver would generate every row again, and could not tell the first driver's unfinished files from leftovers.

On a local file system the lease is a lock on `run.lock`. The kernel releases it when its holder dies in any way.
Elsewhere the lease is an object that its holder writes again every few seconds. A driver that finds the object watches
it, and takes the holder for dead only when the object has stayed unchanged for long enough; it never compares the
clocks of two machines. The object is made only where there is none, and replaced only in the version that was read, so
that of two drivers one gets it, also if a request arrives late (see versioned_object.py; stores other than S3 replace
it without a condition).

The lock file, or the object, stays after its holder. It then says how the holder ended, and by which command it was
started; `read_lease` reads that.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from schemas.errors import KindlingError, RunError, StoppedError
from schemas.secrets import without_secrets
from schemas.text import shorten
from services.storage.filesystem import is_local, make_folder, require_atomic_writes
from services.storage.store import LOCK_NAME, ShardStore
from services.storage.versioned_object import VersionedObject

_log = logging.getLogger("kindling")

# The holder writes the lease object six times in this time; after the whole time without a change the lease is void.
# The object says it, so that drivers with different times wait for each other. A bench of many kills sets it shorter.
_VOID_SECONDS = float(os.environ.get("KINDLING_LEASE_SECONDS", "60"))
_RENEW_SECONDS = _VOID_SECONDS / 6
_TERM, _RELEASED = "void_after_seconds", "released"
# A reader of the lease holds a local lock for microseconds.
_READER_SECONDS = 0.3
_MAX_ERROR_CHARACTERS = 2000
_MAX_LOCK_BYTES = 1 << 16


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


@dataclass(frozen=True)
class LastDriver:
    """The driver that works on a run, or that worked on it last.

    Attributes:
        is_running: None where that cannot be known.
        ended: how it ended: `finished`, `stopped` or `failed`; empty where it was killed, or runs.
        error: cause of a stop or a failure; empty for none.
        command: command that started it; empty where no command of `kindling` did.
    """

    is_running: bool | None = False
    ended: str = ""
    error: str = ""
    command: str = ""


@contextlib.contextmanager
def hold_lease(
    store: ShardStore, lock_name: str = LOCK_NAME, empty_after: bool = False, command: str = ""
) -> Iterator[Lease]:
    """Holds the lease inside the block: only this process may write to the run folder.

    Args:
        lock_name: file name of the lock.
        empty_after: leave an empty lock file after a success: the folder is a checkpoint, whose content hash must stay
            the same.
        command: command that started this process, for `read_lease`; empty to keep that of the driver before.

    Raises:
        RunError: another driver holds the lease; the message names it.
        OSError: the folder cannot be written.
    """
    require_atomic_writes(store.fs, store.url)
    lease = _FileLock(store, lock_name, command) if is_local(store.fs) else _RenewedObject(store, lock_name, command)
    try:
        yield lease
    except BaseException as error:
        lease.release(_ending(error, command or lease.earlier.get("command", ""), lease.earlier))
        raise
    lease.release({} if empty_after else {"ended": "finished"})


def _ending(error: BaseException, command: str, earlier: dict[str, Any]) -> dict[str, Any]:
    """Entries about the end of a driver that an error ended.

    Args:
        command: command that started it.
        earlier: entries of the driver before.
    """
    if isinstance(error, RunError) and error.key == "output.path":
        # The folder is another job's: the error says nothing about the run in it.
        return {key: earlier[key] for key in ("ended", "error", "command") if key in earlier}
    if isinstance(error, StoppedError | KeyboardInterrupt | SystemExit):
        ended, text = "stopped", str(error) if isinstance(error, StoppedError) else ""
    else:
        ended = "failed"
        text = str(error) if isinstance(error, KindlingError) else without_secrets(f"{type(error).__name__}: {error}")
    one_line = " ".join(text.replace("\n  remedy:", "; remedy:").split())
    ending = {"ended": ended, "error": shorten(one_line, _MAX_ERROR_CHARACTERS)}
    return ending | {"command": error.resuming(command)} if isinstance(error, StoppedError) else ending


def read_lease(store: ShardStore, lock_name: str = LOCK_NAME) -> LastDriver:
    """Reads who works on a run, or who did last; nothing is written.

    On an object store a driver that was killed counts as running until its object has not been renewed for some time,
    by the clocks of the store and of this machine.
    """
    try:
        if is_local(store.fs):
            content, is_running = _read_lock_file(store.path(lock_name))
        else:
            content = VersionedObject(store.fs, store.path(lock_name)).read()[0]
            is_running = bool(content) and not _is_released(content) and _is_fresh(store, lock_name, content)
    except FileNotFoundError:
        return LastDriver()
    except OSError:
        return LastDriver(is_running=None)
    entries = _entries(content)
    texts = {key: value for key in ("ended", "error", "command") if isinstance(value := entries.get(key), str)}
    # Whoever may write the folder may write any command into its lock, and a person may carry out what is shown.
    if not (texts.get("command", "").startswith("kindling ") and texts["command"].isprintable()):
        texts["command"] = ""
    return LastDriver(is_running, **texts)


def _read_lock_file(path: str) -> tuple[bytes, bool]:
    """Returns (content, whether a driver holds the lock)."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released with the file
        except BlockingIOError:
            return file.read(_MAX_LOCK_BYTES), True
        return file.read(_MAX_LOCK_BYTES), False


def _is_fresh(store: ShardStore, lock_name: str, content: bytes) -> bool:
    modified = store.fs.modified(store.path(lock_name))
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    return (datetime.now(UTC) - modified).total_seconds() < 1.5 * _parse_term(content)


class _FileLock:
    """Lock on a local file. It works on network file systems that support `flock`, such as NFS from version 4 on."""

    def __init__(self, store: ShardStore, name: str, command: str) -> None:
        self._path = store.path(name)
        make_folder(store.root)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not self._lock():
            holder = _parse_holder(os.pread(self._descriptor, _MAX_LOCK_BYTES, 0))
            os.close(self._descriptor)
            raise _held_by(store, holder)
        self.earlier = _entries(os.pread(self._descriptor, _MAX_LOCK_BYTES, 0))
        # The random part distinguishes this lock from that of any other driver, see `check`.
        self._entries = {**_new_entries(command, self.earlier), "nonce": secrets.token_hex(8)}
        self._content = json.dumps(self._entries).encode()
        self._write(self._content)

    def _lock(self) -> bool:
        """Takes the lock; False where another driver holds it."""
        waited_until = time.monotonic() + _READER_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > waited_until:
                    return False
                time.sleep(_READER_SECONDS / 10)

    def _write(self, content: bytes) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def check(self) -> None:
        """Checks the lock file, see `Lease.check`.

        Holding the descriptor proves nothing: a person may have deleted the file, so that another driver locked a new
        one; and a network file system may have dropped the lock after a lost connection. The content shows both.
        """
        try:
            with open(self._path, "rb") as file:
                content = file.read(len(self._content) + 1)
        except FileNotFoundError:
            folder = os.path.dirname(self._path)
            if not os.path.isdir(folder):
                cause = f"{folder} is gone: move it back, or name its new place in output.path"
                raise LeaseLostError(cause) from None
            raise LeaseLostError(f"{self._path} was removed while the job ran") from None
        if content != self._content:
            raise LeaseLostError(f"{self._path} is another driver's now")

    def release(self, ending: dict[str, Any]) -> None:
        """Releases the lock.

        The file stays. If it were removed, one driver could lock the removed file and another a new one.

        Args:
            ending: entries about the end of this driver; empty to leave the file empty.
        """
        with contextlib.suppress(OSError):  # such as a full disk: the file then says that its driver was killed
            self._write(json.dumps({**self._entries, **ending}).encode() if ending else b"")
        os.close(self._descriptor)


class _RenewedObject:
    """Lease on a file system without locks: an object that a thread of its own renews."""

    def __init__(self, store: ShardStore, name: str, command: str) -> None:
        self._store, self._path, self._nonce = store, store.path(name), secrets.token_hex(8)
        self._command, self.earlier = command, dict[str, Any]()
        self._object = VersionedObject(store.fs, self._path)
        self._ended = threading.Event()
        self._renewals = 0
        self._good_until = 0.0
        self._version = ""
        self._take()
        self._thread = threading.Thread(target=self._renew, name="kindling-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Checks the time of the last renewal, see `Lease.check`."""
        if _now() > self._good_until:
            raise LeaseLostError(f"{self._path} could not be renewed, or is another driver's now")

    def release(self, ending: dict[str, Any]) -> None:
        """Ends the renewing, and gives the object up if it is still this driver's.

        It stays, marked as released: a removal that the store applies late could remove the object of the next driver.

        Args:
            ending: entries about the end of this driver.
        """
        self._ended.set()
        self._thread.join()
        released = {**_new_entries(self._command, self.earlier), _RELEASED: True, **ending}
        with contextlib.suppress(OSError):
            if self._object.is_conditional or self._is_own(self._object.read()[0]):
                self._object.write(json.dumps(released).encode(), self._version)

    def _take(self) -> None:
        """Takes the lease once nobody renews it.

        Raises:
            RunError: another driver renews it, or took it at the same time.
        """
        content, version = self._object.read()
        self.earlier = _entries(content)
        if content and not _is_released(content):
            version = self._wait_for_silence(content, version)
        if not self._write(version):
            raise _held_by(self._store, _parse_holder(self._object.read()[0]))
        if not self._object.is_conditional:
            # Two drivers may both have taken over from a dead one. The last write stands: after a pause both read it,
            # and only the driver that wrote it goes on.
            time.sleep(_RENEW_SECONDS / 10)
            if not self._is_own(latest := self._object.read()[0]):
                raise _held_by(self._store, _parse_holder(latest))

    def _wait_for_silence(self, content: bytes, version: str) -> str:
        """Waits for as long as the holder may go without a renewal.

        Returns:
            The version to take over: that of the silent holder, or of what came after its release; "" where the object
            is gone.

        Raises:
            RunError: another driver renews it.
        """
        seconds = _parse_term(content)
        _log.info(
            "%s was held by %s; waiting %.0f s for a sign of it", self._store.url, _parse_holder(content), seconds
        )
        waited_until = time.monotonic() + seconds
        while time.monotonic() < waited_until:
            time.sleep(min(_RENEW_SECONDS / 2, seconds / 4))
            latest, latest_version = self._object.read()
            if not latest or _is_released(latest):
                return latest_version
            if latest_version != version:
                raise _held_by(self._store, _parse_holder(latest))
        return version

    def _renew(self) -> None:
        """Renews the lease until it is released or lost; runs in the thread."""
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                # Once lost, always lost: a driver that was suspended for minutes must not write over its successor's
                # object.
                if _now() > self._good_until or not self._renew_once():
                    self._good_until = 0.0
                    return
            except Exception as error:
                _log.warning(
                    "the run's lease could not be renewed, and is tried again (%s). If that goes on for %.0f s the job "
                    "stops, and the same command resumes: see that this machine reaches %s", error, _VOID_SECONDS,
                    self._store.url,
                )  # fmt: skip

    def _renew_once(self) -> bool:
        """Renews the lease; returns False where it is another driver's."""
        if self._object.is_conditional and self._write(self._version):
            return True
        # On a conditional store: a renewal that failed before was applied after all, or the lease is lost.
        content, version = self._object.read()
        return self._is_own(content) and self._write(version)

    def _write(self, version: str) -> bool:
        """Writes the object in the place of a version; returns False where another version lies there."""
        self._renewals += 1  # changes the content, and so the version, which is what another driver watches
        began = _now()
        entries = _new_entries(self._command, self.earlier)
        lease = {**entries, "nonce": self._nonce, "renewals": self._renewals, _TERM: _VOID_SECONDS}
        if not (written := self._object.write(json.dumps(lease).encode(), version)):
            return False
        self._version = written
        # From the time before the write, and shorter than another driver waits: this driver stops before the other one
        # takes over.
        self._good_until = began + _VOID_SECONDS - _RENEW_SECONDS
        return True

    def _is_own(self, content: bytes) -> bool:
        return self._nonce.encode() in content


def _now() -> float:
    """Seconds on a clock that continues while the machine sleeps; `time.monotonic` does not on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _describe_this_driver() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def _new_entries(command: str, earlier: dict[str, Any]) -> dict[str, Any]:
    return {"holder": _describe_this_driver(), "command": command or earlier.get("command", "")}


def _entries(content: bytes) -> dict[str, Any]:
    """Entries of a lock file or a lease object; empty where it is empty, or of a version that wrote no JSON."""
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _parse_holder(content: bytes) -> str:
    """Holder's description; in lock files of version 0.2.0 it is the first line."""
    first_line = content.decode(errors="replace").partition("\n")[0]
    return str(_entries(content).get("holder", first_line)) or "another driver"


def _parse_term(content: bytes) -> float:
    """Seconds that a lease object stays good without a renewal; objects of version 0.2.0 do not say it."""
    try:
        return float(_entries(content)[_TERM])
    except (ValueError, TypeError, KeyError):
        return _VOID_SECONDS


def _is_released(content: bytes) -> bool:
    return bool(_entries(content).get(_RELEASED))


def _held_by(store: ShardStore, holder: str) -> RunError:
    cause = f"another driver works on this run: {holder}"
    return RunError("output.path", store.url, cause, "end that one, or wait for it")

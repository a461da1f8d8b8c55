"""Local and remote file systems behind fsspec, and durable writing on each.

Invariant: under its own name a file is always complete. On a local disk it is written under a temporary name, synced
and renamed; on an object store one PUT makes it visible as a whole.
"""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from io import BytesIO, FileIO
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import JobError
from schemas.secrets import secret_in
from services.storage.failpoints import failpoint
from services.storage.remote import RemoteFileSystem, put

# File systems on which one PUT makes a whole file visible; "memory" belongs to one process and serves tests.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}
# Ending of the files that a process leaves if it is killed while it writes; the next driver of the run removes them.
LEFTOVER_SUFFIX = ".tmp"


def resolve(
    url: str, key: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a path or URL.

    Args:
        url: a local path, or a URL of any fsspec file system.
        key: the job-file key that holds the URL, for the error message.
        storage_options: arguments of the file system, such as an endpoint.

    Returns:
        (file system, path in it). A remote file system fails with `remote.StoreError` alone.

    Raises:
        JobError: the scheme is unknown, its package is missing, or it does not accept the options; or the URL holds a
            secret.
    """
    if part := secret_in(url):
        cause = f"{part} may be a secret, which would be shown and written down"
        raise JobError(key, None, cause, "set it in the environment, or download the file")
    try:
        fs, path = fsspec.core.url_to_fs(url, **(storage_options or {}))
    except (ValueError, ImportError, TypeError) as error:
        remedy = "use a local path, or install the fsspec package of that scheme (s3fs, gcsfs, adlfs, ...)"
        raise JobError(key, url, str(error), remedy) from None
    return fs if is_local(fs) else RemoteFileSystem(fs, key), path


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Returns whether files of this file system can be appended to, renamed and synced."""
    return isinstance(fs, LocalFileSystem)


def require_atomic_writes(fs: fsspec.AbstractFileSystem, url: str) -> None:
    """Refuses a file system on which a reader could see half of a file.

    Raises:
        JobError: the file system is neither local nor an object store.
    """
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not is_local(fs) and not protocols & _OBJECT_STORES:
        cause = f"a file on {'/'.join(sorted(protocols))} does not appear as a whole"
        raise JobError("output.path", url, cause, "name a local or mounted folder, or one on s3://, gs:// or abfs://")


def make_folder(folder: str) -> None:
    """Makes a local folder and its parents, where missing, so that they survive a power cut."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder) or "."
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process made it in this moment
            os.mkdir(path)
        sync_folder(os.path.dirname(path) or ".")


def write_atomic(
    fs: fsspec.AbstractFileSystem, path: str, data: bytes, must_be_new: bool = False, failpoint_prefix: str = "file"
) -> None:
    """Writes a whole file so that a reader sees all of it or nothing, and it survives a power cut.

    Args:
        must_be_new: fail if the file exists, and leave that file as it is.
        failpoint_prefix: first word of the failpoints that the writing passes, see `failpoints`.

    Raises:
        FileExistsError: the file must be new, and exists.
        OSError: the file system refuses; no temporary file stays.
    """
    if not is_local(fs):
        put(fs, path, data, must_be_new)
        failpoint(f"{failpoint_prefix}.renamed")  # as on a local disk: the content has its final name
        return
    folder, name = os.path.split(path)
    make_folder(folder)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}{LEFTOVER_SUFFIX}")
    try:
        with open(temporary, "wb", buffering=0) as file:
            view = memoryview(data)
            write_all(file, view[: len(data) // 2])
            failpoint(f"{failpoint_prefix}.half")
            write_all(file, view[len(data) // 2 :])
            # Before the rename: a file system may store the new name before the content, and a power cut between the
            # two would leave an empty file under the final name.
            os.fsync(file.fileno())
        failpoint(f"{failpoint_prefix}.synced")
        if must_be_new:
            _rename_to_new(temporary, path)
        else:
            os.rename(temporary, path)
        failpoint(f"{failpoint_prefix}.renamed")
        sync_folder(folder)  # the new name is durable only now
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _rename_to_new(temporary: str, path: str) -> None:
    """Renames a file, and fails if the new name exists: `rename` alone would replace that file."""
    try:
        os.link(temporary, path)  # one step that gives the name or fails, for all processes
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)
        return
    os.unlink(temporary)


@contextlib.contextmanager
def new_file(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """Yields a file to write; at the end of the block it is at `path`, complete. Elsewhere than on a local disk the
    file is held in memory until then.

    Raises:
        FileExistsError: a file lies at `path` by then, and stays as it is.
        OSError: the file system refuses; no temporary file stays.
    """
    if not is_local(fs):
        buffer = BytesIO()
        yield buffer
        put(fs, path, buffer.getvalue(), must_be_new=True)
        return
    folder, name = os.path.split(path)
    make_folder(folder)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}{LEFTOVER_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename_to_new(temporary, path)
        sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def atomic_folder(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """Yields a folder to write files in; at the end of the block it is at `path`, complete.

    Local: a temporary folder beside `path`, renamed at the end, removed if the block fails. Elsewhere folders cannot be
    renamed: the folder is `path` itself, and readers take it as complete once the file is there that is written last.

    Raises:
        OSError: the file system refuses, or another file or folder lies at `path` by then.
    """
    if not is_local(fs):
        yield path
        return
    parent, name = os.path.split(path)
    make_folder(parent)
    _remove_leftover_folders(parent, name)
    folder = os.path.join(parent, f".{name}.{secrets.token_hex(4)}{LEFTOVER_SUFFIX}")
    os.mkdir(folder)
    # The kernel releases the lock when this process ends in any way: an unlocked temporary folder is a leftover.
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
        os.rename(folder, path)
        sync_folder(parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _remove_leftover_folders(parent: str, name: str) -> None:
    """Removes the temporary folders of killed processes; those of living ones are locked."""
    pattern = f".{glob.escape(name)}.{'[0-9a-f]' * 8}{LEFTOVER_SUFFIX}"
    for folder in glob.glob(os.path.join(glob.escape(parent), pattern)):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Writes all of the data: an unbuffered file may accept only a part, for instance on a full disk."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]


def sync_folder(folder: str) -> None:
    """Makes the names in a local folder durable: a rename survives a power cut only after this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Makes the content of the files in a folder durable."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def is_leftover(name: str) -> bool:
    """Returns whether a file has the temporary name of `write_atomic`."""
    return name.startswith(".") and name.endswith(LEFTOVER_SUFFIX)


def list_folder(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each entry of a folder; nothing if the folder is missing."""
    if is_local(fs):
        # `scandir` takes a third of fsspec's time, which matters with 100,000 files.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # a symbolic link without a target
                    yield entry.name, entry.stat().st_size
        return
    # Object stores cache listings; a resume must see what the last driver wrote.
    fs.invalidate_cache(folder)
    with contextlib.suppress(FileNotFoundError):
        for info in fs.ls(folder, detail=True):
            yield info["name"].rsplit("/", 1)[-1], info["size"]

"""Local and remote file systems behind fsspec, and what durable writing means on each."""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import JobError
from services.storage.failpoints import failpoint

# Of these a file appears whole, by one PUT; "memory" is of one process alone.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}
# A process that is killed while it writes leaves a file with this ending; the next driver of the run removes it.
LEFTOVER_SUFFIX = ".tmp"


def resolve(
    url: str, key: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Args:
        url: a local path, or a URL of any fsspec file system.
        key: the job key that it stands under, for the error.

    Raises:
        JobError: the scheme is unknown, its package is missing, or it does not accept the options.
    """
    try:
        return fsspec.core.url_to_fs(url, **(storage_options or {}))
    except (ValueError, ImportError, TypeError) as error:
        remedy = "use a local path, or install the fsspec package of that scheme (s3fs, gcsfs, adlfs, ...)"
        raise JobError(key, url, str(error), remedy) from None


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether files of this file system can be appended to, renamed and synced."""
    return isinstance(fs, LocalFileSystem)


def refuse_half_files(fs: fsspec.AbstractFileSystem, url: str) -> None:
    """Refuses a place to write to where a reader could see half of a file.

    Raises:
        JobError: it is neither local nor an object store.
    """
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not is_local(fs) and not protocols & _OBJECT_STORES:
        cause = f"a file on {'/'.join(sorted(protocols))} does not appear as a whole"
        raise JobError("output.path", url, cause, "name a local or mounted folder, or one on s3://, gs:// or abfs://")


def make_folder(folder: str) -> None:
    """Makes a local folder, and those above it, so that it survives a power cut; it may be there."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder) or "."
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # somebody else made it in this moment
            os.mkdir(each)
        sync_folder(os.path.dirname(each) or ".")


def write_atomic(fs: fsspec.AbstractFileSystem, path: str, data: bytes, new: bool = False, what: str = "file") -> None:
    """Writes a whole file so that a reader sees all of it or none, and it survives a power cut.

    Local: a temporary name, fsync, rename, fsync of the folder. Elsewhere one whole PUT, which object stores make
    visible at once.

    Args:
        new: never replace a file that is there.
        what: whose failpoints these are.

    Raises:
        FileExistsError: it was to be new, and is there.
        OSError: as the file system gives it; nothing is left behind.
    """
    if not is_local(fs):
        fs.pipe_file(path, data, **({"mode": "create"} if new else {}))
        return
    folder, name = os.path.split(path)
    make_folder(folder)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}{LEFTOVER_SUFFIX}")
    try:
        with open(temporary, "wb", buffering=0) as file:
            whole = memoryview(data)
            write_all(file, whole[: len(data) // 2])
            failpoint(f"{what}.half")
            write_all(file, whole[len(data) // 2 :])
            os.fsync(file.fileno())
        failpoint(f"{what}.synced")
        if new:
            _rename_to_new(temporary, path)
        else:
            os.rename(temporary, path)
        failpoint(f"{what}.renamed")
        sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def whole_folder(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """Inside the block, a folder to write files in; at its end it is at `path`, whole, or nowhere.

    Local: a temporary name beside it, renamed at the end. Elsewhere folders cannot be renamed: it is `path` itself, and
    a reader takes it for whole where the file is there that was written last.

    Raises:
        OSError: as the file system gives it; also where something lies at `path` by then.
    """
    if not is_local(fs):
        yield path
        return
    parent, name = os.path.split(path)
    make_folder(parent)
    _remove_leftovers(parent, name)
    folder = os.path.join(parent, f".{name}.{secrets.token_hex(4)}{LEFTOVER_SUFFIX}")
    os.mkdir(folder)
    # Held until the end, however that comes: what nobody holds any more was left by a killed process.
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


def _remove_leftovers(parent: str, name: str) -> None:
    pattern = f".{glob.escape(name)}.{'[0-9a-f]' * 8}{LEFTOVER_SUFFIX}"
    for folder in glob.glob(os.path.join(glob.escape(parent), pattern)):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _rename_to_new(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)
        return
    os.unlink(temporary)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Writes all of it: a full disk may take a part before it refuses the rest."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def sync_folder(folder: str) -> None:
    """Makes the names in a local folder durable: a rename is only safe once its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Makes what is in the files of a folder durable."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())

"""Remote file systems, whose failures are all one error: `StoreError`.

Invariant: whatever package is behind a URL (s3fs, gcsfs, adlfs, ...), a call ends with a result, a `StoreError`, or one
of the plain answers that a file is or is not there.

Each package raises errors of its own: botocore's, aiohttp's, those of its credentials. Here is the one place that
translates them, so that callers catch OSError and no other.
"""

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.compression import compr
from fsspec.core import get_compression

from schemas.errors import JobError, StoreError
from schemas.text import shorten

# Answers, not failures; callers ask for them.
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
# Words in the names of error classes and of their base classes, which say what failed in every package.
_KINDS = (
    (("Credential", "Token", "Auth", "Profile", "Permission", "Forbidden", "Refresh"), errno.EACCES),
    (("Timeout",), errno.ETIMEDOUT),
    (("Connect", "Endpoint", "ClientError", "HTTPClient", "Proxy", "SSL"), errno.EHOSTUNREACH),
    (("Validation",), errno.EINVAL),
)
# Pauses before a write is repeated; each package repeats its requests a few times by itself.
_PUT_WAITS = (0.5, 1.0, 2.0)


class RemoteFileSystem:
    """A remote file system, whose every method translates its errors.

    Args:
        fs: the file system of fsspec; attributes that are not methods are its own.
        key: job key of the URL, for the error about options of the file system.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, key: str) -> None:
        self._fs, self._key = fs, key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle asks for such methods before the attributes are there
            raise AttributeError(name)
        return _translated(getattr(self._fs, name), self._options_errors)

    def open(self, path: str, mode: str = "rb", compression: str | None = None, **options: Any) -> Any:
        """Opens a file, as fsspec does. Errors of the decompression are about the content, and stay as they are."""
        with self._options_errors():
            file = _RemoteFile(self._fs.open(path, mode, **options))
        name = get_compression(path, compression)
        return compr[name](file, mode=mode[0]) if name else file

    @contextmanager
    def _options_errors(self) -> Iterator[None]:
        """Translates errors; among them the TypeError of a package that does not know one of the options."""
        options: Mapping[str, Any] = self._fs.storage_options
        try:
            with _store_errors():
                yield
        except TypeError as error:
            if not options:
                raise
            cause = f"the file system does not know these options: {shorten(str(error))}"
            remedy = "correct input.storage_options, or the variables FSSPEC_* of the environment"
            raise JobError(self._key, sorted(options), cause, remedy) from None


class _RemoteFile:
    """A file of a remote file system, whose every method translates its errors."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return _translated(getattr(self._file, name), _store_errors)

    def __enter__(self) -> "_RemoteFile":
        return self

    def __exit__(self, *error: object) -> None:
        with _store_errors():
            self._file.close()

    def __iter__(self) -> Iterator[Any]:
        with _store_errors():
            yield from self._file


def _translated(attribute: Any, errors: Callable[[], Any]) -> Any:
    if not callable(attribute):
        return attribute

    def call(*arguments: Any, **options: Any) -> Any:
        with errors():
            return attribute(*arguments, **options)

    return call


@contextmanager
def _store_errors() -> Iterator[None]:
    """Inside the block an error of a remote file system becomes a StoreError.

    Raises:
        StoreError: the store cannot be reached, refuses the request, or fails.
    """
    try:
        yield
    except (*_ANSWERS, StoreError):
        raise
    except Exception as error:
        # Python's own errors that are no OSError are those of a wrong call, or of content that is no text.
        if type(error).__module__ == "builtins" and not isinstance(error, OSError):
            raise
        raise StoreError(_number(error), shorten(_cause(error))) from error


def _number(error: Exception) -> int:
    """Error number of a failure: its own, or one of the same kind."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.errno
    names = [base.__name__ for base in type(error).__mro__]
    return next(
        (number for words, number in _KINDS if any(word in name for name in names for word in words)), errno.EIO
    )


def _cause(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words.strip() or type(error).__name__


def put(fs: RemoteFileSystem, path: str, data: bytes, must_be_new: bool = False) -> None:
    """Writes a whole object in one request, and repeats the request while the store fails.

    A request may be applied although its answer is an error, or is lost. So what lies at the path decides: the same
    content is a success.

    Raises:
        FileExistsError: the object must be new, and another one lies there.
        StoreError: the store refuses, or still fails after the last request.
    """
    for wait_seconds in (*_PUT_WAITS, None):
        try:
            fs.pipe_file(path, data, **({"mode": "create"} if must_be_new else {}))
            return
        except (FileExistsError, StoreError) as error:
            if must_be_new and (content := read_object(fs, path)) is not None:
                if content == data:
                    return
                raise FileExistsError(errno.EEXIST, "another driver has written it", path) from error
            if wait_seconds is None or (isinstance(error, StoreError) and not error.is_transient):
                raise
        time.sleep(wait_seconds)


def read_object(fs: RemoteFileSystem, path: str) -> bytes | None:
    """Reads a whole object; None where there is none.

    Raises:
        StoreError: the store fails.
    """
    try:
        content: bytes = fs.cat_file(path)
    except FileNotFoundError:
        return None
    return content

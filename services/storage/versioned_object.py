"""One small object in a store, which is replaced only in the version that was read.

Invariant: on a conditional store `write` succeeds for one of several processes that read the same version, in whatever
order and however late the store applies their requests, and however often a package repeats them.

S3 and its like name the version by an ETag, and take the condition with the request (`If-None-Match: *`, `If-Match`).
On other stores an object is made new under a condition, but replaced without one.
"""

from schemas.errors import StoreError
from services.storage.remote import RemoteFileSystem, read_object

_CONDITIONAL = {"s3", "s3a"}


class VersionedObject:
    """An object at a path.

    Attributes:
        is_conditional: whether the store replaces it under a condition.
    """

    def __init__(self, fs: RemoteFileSystem, path: str) -> None:
        self._fs, self._path = fs, path
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        self.is_conditional = bool(protocols & _CONDITIONAL)

    def read(self) -> tuple[bytes, str]:
        """Returns the content and its version; empty where there is no object.

        Raises:
            StoreError: the store fails.
        """
        # The version first: one that is too old makes the next write fail, one that is too new would let it replace
        # content that nobody read.
        version = self._version() if self.is_conditional else ""
        content = read_object(self._fs, self._path) or b""
        if not self.is_conditional:
            version = content.hex()
        return content, version if content else ""

    def write(self, content: bytes, version: str) -> str:
        """Makes the object ("" as version), or replaces that version of it.

        Returns:
            The new version; "" where another version lies there, so that nothing was written.

        Raises:
            StoreError: the store fails; the object may be written later all the same.
            FileNotFoundError: there is no such bucket.
        """
        condition = {"mode": "create"} if not version else {"IfMatch": version} if self.is_conditional else {}
        try:
            written = self._fs.pipe_file(self._path, content, **condition)
        except (FileExistsError, FileNotFoundError, StoreError):
            # The package may have repeated a request whose answer was lost, and been refused because of itself; each
            # store names a refusal in its own way. So what lies there decides.
            present, present_version = self.read()
            if present == content:
                return present_version
            if present_version != version:
                return ""
            raise
        if not self.is_conditional:
            return content.hex()
        return written["ETag"] if isinstance(written, dict) and "ETag" in written else self._version()

    def remove(self) -> None:
        """Removes the object, in whatever version."""
        self._fs.rm_file(self._path)

    def _version(self) -> str:
        self._fs.invalidate_cache(self._path.rsplit("/", 1)[0])
        try:
            return str(self._fs.info(self._path)["ETag"])
        except FileNotFoundError:
            return ""

"""An object store in this process that answers as S3 does, and whose requests can be delayed, lost or refused."""

import errno
import hashlib
import threading

from fsspec.implementations.memory import MemoryFileSystem


class FakeS3(MemoryFileSystem):
    """S3 in memory: conditional writes by ETag.

    Attributes:
        on_put: called with the path of each write before it is applied; it may wait, or raise.
        answers: called with the path after a write was applied; an error that it raises is the answer.
    """

    protocol = ("s3",)
    root_marker = ""
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    lock = threading.RLock()

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("s3://").strip("/")

    def info(self, path, **options):
        facts = super().info(path, **options)
        if facts["type"] == "file":
            with self.lock:
                facts["ETag"] = f'"{hashlib.md5(self.store[facts["name"]].getvalue()).hexdigest()}"'
        return facts

    def pipe_file(self, path, value, mode="overwrite", IfMatch=None, **options):
        path = self._strip_protocol(path)
        self.on_put(path)
        with self.lock:
            if mode == "create" and path in self.store:
                raise FileExistsError("At least one of the pre-conditions you specified did not hold")
            if IfMatch is not None and path not in self.store:
                raise FileNotFoundError(path)
            if IfMatch is not None and self.info(path)["ETag"] != IfMatch:
                raise OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold")
            super().pipe_file(path, value)
            tag = self.info(path)["ETag"]
        self.answers(path)
        return {"ETag": tag}

    @staticmethod
    def on_put(path):
        pass

    @staticmethod
    def answers(path):
        pass

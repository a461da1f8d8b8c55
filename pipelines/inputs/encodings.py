"""Text files in other encodings than UTF-8: read as if they were UTF-8, so that no format has to know.

Invariant: bytes that are wrong in their encoding become bytes that are wrong in UTF-8, and spoil their own row only.
"""

import codecs
import io
from typing import IO

from schemas.errors import JobError
from schemas.text import wide_encoding

_BLOCK_BYTES = 1 << 16
_PROBED_BYTES = 1 << 20
_FAULTS = "kindling-fault"


def _fault(error: UnicodeError) -> tuple[str, int]:
    """Returns a lone surrogate for each wrong byte, which `surrogateescape` makes a byte that is wrong in UTF-8."""
    assert isinstance(error, UnicodeDecodeError)  # it is given to decoders alone
    return "\udcff" * (error.end - error.start), error.end


codecs.register_error(_FAULTS, _fault)


def guess_encoding(file: IO[bytes]) -> str | None:
    """Guesses the encoding of a text file from its first MiB; None for UTF-8."""
    head = file.read(_PROBED_BYTES)
    if wide := wide_encoding(head):
        return wide.lower()
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"  # the commonest: that of Windows in the West
    return None


def check_encoding(encoding: str) -> None:
    """Refuses an encoding that Python does not know, or that is none of text.

    Raises:
        JobError: it is not the name of a text encoding.
    """
    try:
        "".encode(encoding)
    except LookupError:
        remedy = "name one as Python does, such as cp1252, latin-1 or utf-16"
        raise JobError("input.encoding", encoding, "no such text encoding", remedy) from None


def recoded(file: IO[bytes], encoding: str) -> IO[bytes]:
    """Returns the content of a file in UTF-8.

    Args:
        file: the file, whose closing is left to the result.
        encoding: its encoding.
    """
    return io.BufferedReader(_Recoded(file, encoding), _BLOCK_BYTES)


class _Recoded(io.RawIOBase):
    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self._file, self._encoding = file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=_FAULTS)
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._pending:
            block = self._file.read(_BLOCK_BYTES)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeError as error:  # such as UTF-16 that begins without its mark
                raise OSError(f"it is not {self._encoding} text ({error}): see input.encoding") from None
            self._pending = text.encode("utf-8", errors="surrogateescape")
            if not block and not self._pending:
                return 0
        size = min(len(buffer), len(self._pending))
        buffer[:size], self._pending = self._pending[:size], self._pending[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

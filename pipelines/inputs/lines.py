"""Files with a row in each line, whatever bytes they hold.

Invariant: reading needs little memory however long a line is, and a line that cannot be read spoils no other row.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import IO

from pipelines.inputs.sources import MAX_ROW_BYTES, FileSource, InputRow, Skip, refuse_wide_text, skip_items

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineSource(FileSource):
    """A file with a row in each line. Blank lines are not rows."""

    @abstractmethod
    def _parse(self, line: bytes) -> InputRow:
        """Returns the row of a line, or its fault."""

    def count(self) -> int:
        """Returns the number of lines that are not blank."""
        return sum(1 for _ in self._lines())

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""
        return map(self._row, skip_items(self._lines(), skip))

    def _row(self, line: bytes | None) -> InputRow:
        if line is None:
            return InputRow(None, f"the line is longer than {MAX_ROW_BYTES >> 20} MiB")
        return self._parse(line)

    def _lines(self) -> Iterator[bytes | None]:
        with self.open() as file:
            for number, line in enumerate(bounded_lines(file)):
                if number == 0:
                    refuse_wide_text("input.path", self.name, line or b"")
                # Files that were joined have a mark in their midst.
                line = line.removeprefix(_BYTE_ORDER_MARK) if line else line
                # A line that is too long cannot be blank: it is a row with a fault.
                if line is None or line.strip():
                    yield line


def bounded_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yields the lines of a file without their newline; None in place of a line longer than MAX_ROW_BYTES."""
    # `pending` is the beginning of a line that goes on in the next block.
    pending, is_too_long = b"", False
    while block := file.read(_BLOCK_BYTES):
        # All but the last piece end in a newline.
        *lines, pending = (pending + block).split(b"\n")
        if lines:
            # Only the first can have begun in an earlier block. The others are shorter than a block.
            first, *others = lines
            yield None if is_too_long or len(first) > MAX_ROW_BYTES else first
            yield from others
            is_too_long = False
        # The beginning of a line that is too long is thrown away at once: memory stays bounded.
        if is_too_long or len(pending) > MAX_ROW_BYTES:
            pending, is_too_long = b"", True
    if pending or is_too_long:
        yield None if is_too_long else pending

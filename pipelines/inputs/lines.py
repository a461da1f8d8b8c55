"""Lines and CSV records of files that may hold anything: bounded memory, and a fault spoils its own row if it can."""

import csv
import io
from collections.abc import Iterator
from typing import Any

# What one row may hold: several times the longest book.
MOST_ROW_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20


def bounded_lines(file: Any) -> Iterator[bytes | None]:
    """Lines without their newline; None in place of one that is longer than a row may be.

    Args:
        file: a binary file.
    """
    pending, too_long = b"", False
    while block := file.read(_BLOCK_BYTES):
        *whole, pending = (pending + block).split(b"\n")
        if whole:
            if too_long or len(whole[0]) > MOST_ROW_BYTES:
                whole[0] = None
            too_long = False
        yield from whole
        if too_long or len(pending) > MOST_ROW_BYTES:
            pending, too_long = b"", True
    if pending or too_long:
        yield None if too_long else pending


def csv_records(file: Any, delimiter: str) -> Iterator[list[str] | None]:
    """Records of a CSV file, its header first; None in place of one line whose quotes do not pair.

    Bytes that are no UTF-8 are read as lone surrogates, so that they spoil their own row and no other.

    Args:
        file: a binary file.

    Raises:
        csv.Error: quotes do not pair in a record of several lines, and nobody can tell which rows it swallowed; or a
            cell is longer than a row may be.
        OSError: a line is.
    """
    csv.field_size_limit(MOST_ROW_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(_bounded_text(text), delimiter=delimiter, strict=True)
    while True:
        before = reader.line_num
        try:
            record = next(reader, None)
        except csv.Error as error:
            if reader.line_num > before + 1:
                raise csv.Error(f"the record that begins in line {before + 1}: {error}") from None
            yield None
            continue
        if record is None:
            return
        if record:
            yield record


def _bounded_text(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(MOST_ROW_BYTES + 1):
        number += 1
        if len(line) > MOST_ROW_BYTES:
            raise OSError(f"line {number} is longer than {MOST_ROW_BYTES >> 20} MiB")
        yield line

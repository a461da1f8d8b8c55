"""CSV: comma-separated (tabs for .tsv), with a header, and quotes as in RFC 4180; every cell is text.

Invariant: a faulty record spoils its own row only. Where that cannot be known (quotes that do not pair over several
lines), the file is refused: the rows that the quotes swallowed could not be counted.
"""

import csv
import io
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import IO

from pipelines.inputs.compression import format_ending
from pipelines.inputs.sources import MAX_ROW_BYTES, FileSource, InputRow, Skip, skip_items


class CsvSource(FileSource):
    """A CSV file with a header. Blank lines are not rows."""

    format = "csv"
    endings = (".csv", ".tsv")
    read_errors = (csv.Error,)

    def count(self) -> int:
        """Returns the number of records after the header."""
        return sum(1 for _ in islice(self._records(), 1, None))

    def columns(self) -> list[str]:
        """Returns the cells of the header; [] for an empty file."""
        return _read_header(self._records())

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""
        records = self._records()
        return map(partial(_row, _read_header(records)), skip_items(records, skip))

    def _records(self) -> Iterator[list[str] | None]:
        with self._open() as file:
            yield from csv_records(file, "\t" if format_ending(self.path) == ".tsv" else ",")


def csv_records(file: IO[bytes], delimiter: str) -> Iterator[list[str] | None]:
    """Yields the records of a CSV file, its header first; None in place of one line whose quotes do not pair.

    Raises:
        csv.Error: the quotes of a record of several lines do not pair, or a cell is longer than MAX_ROW_BYTES.
        OSError: a line is longer than MAX_ROW_BYTES.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that are not UTF-8 become lone surrogates, by which `_row` finds them: they spoil their own row only.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(_bounded_text(text), delimiter=delimiter, strict=True)
    while True:
        lines_before = reader.line_num
        try:
            record = next(reader, None)
        except csv.Error as error:
            # An open quote takes the following lines into its cell. They may have been any number of rows.
            if reader.line_num > lines_before + 1:
                raise csv.Error(f"the record that begins in line {lines_before + 1}: {error}") from None
            yield None
            continue
        if record is None:
            return
        if record:
            yield record


def _bounded_text(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise OSError(f"line {number} is longer than {MAX_ROW_BYTES >> 20} MiB")
        yield line


def _read_header(records: Iterator[list[str] | None]) -> list[str]:
    for header in records:
        if header is None:
            raise csv.Error("the quotes of its header do not pair")
        return header
    return []


def _row(header: list[str], cells: list[str] | None) -> InputRow:
    if cells is None:
        return InputRow(None, "the quotes of the row do not pair")
    if len(cells) != len(header):
        return InputRow(None, f"the row has {len(cells)} cells and the header {len(header)}")
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return InputRow(None, "the row is not UTF-8")
    return InputRow(dict(zip(header, cells, strict=True)))

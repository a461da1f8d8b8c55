"""Records of CSV and TSV files, with quotes around cells (RFC 4180) or with quotes as ordinary characters.

Invariant: no line is swallowed in silence. Where quotes do not pair, or may be around one cell as well as in several
rows, one row has a fault, or one error names the lines and the key `quotes`.

Unless the job says what quotes are, they are removed around a whole cell. A record of several lines is one record only
if its lines could not be rows by themselves, or if other records of the file prove that its quotes are around cells.
In a TSV, a format without quotes by its own rules, a quote that is not around a whole cell is an ordinary character.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Literal, NamedTuple

from pipelines.inputs.sources import MAX_ROW_BYTES, refuse_wide_text

REMEDY = "set the key quotes to false if quotes are ordinary characters"
"""remedy for quotes that do not pair"""
_DELIMITERS = ",;\t|"
_QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True)
class Dialect:
    """Form of a CSV or TSV file.

    Attributes:
        delimiter: character between cells; None: the usual one, or another that the header has instead.
        quotes: whether quotes are around cells; None: see the module.
        usual_delimiter: delimiter by the ending of the file's name.
        has_header: whether the first record has the names of the columns.
    """

    delimiter: str | None = None
    quotes: bool | None = None
    usual_delimiter: str = ","
    has_header: bool = True


class _Record(NamedTuple):
    """One record.

    Attributes:
        cells: the cells; None where the quotes of the one line do not pair.
        lines: lines that it was read from.
        is_literal: whether a quote that does not pair was read as an ordinary character.
    """

    cells: list[str] | None
    lines: list[str]
    is_literal: bool = False


def csv_records(name: str, open_file: Callable[[], IO[bytes]], dialect: Dialect) -> Iterator[list[str] | None]:
    """Yields the records of a file, the first with its header; None in place of one line whose quotes do not pair.

    Args:
        name: the file's name, for errors.
        open_file: opens the file; called again only where proofs of the meaning of its quotes are needed.
        dialect: form of the file.

    Raises:
        JobError: the file is in UTF-16 or UTF-32.
        csv.Error: the quotes of several lines do not pair, or may be around one cell or in several rows; or a cell is
            longer than MAX_ROW_BYTES.
        OSError: a line is longer than MAX_ROW_BYTES.
    """
    with open_file() as file:
        lines = _Lines(file)
        refuse_wide_text("input.path", name, lines.first.encode(errors="surrogateescape"))
        delimiter = _delimiter_of(lines.first, dialect)
        has_quoted_header = dialect.has_header and any(c.startswith('"') for c in _split(lines.first, delimiter))
        are_proven = dialect.quotes is not None or has_quoted_header
        columns = 0
        for record in _records(lines, delimiter, dialect.quotes):
            columns = columns or len(record.cells or ())
            if len(record.lines) > 1 and not are_proven and (rows := _rows_within(record, lines, delimiter, columns)):
                are_proven = _are_quotes_proven(open_file, delimiter)
                if not are_proven:
                    raise csv.Error(
                        f"lines {lines.number - len(record.lines) + 1} to {lines.number} are one row if quotes are "
                        f"around cells, else {rows} rows: set the key quotes to true or false"
                    )
            yield record.cells


def _delimiter_of(header: str, dialect: Dialect) -> str:
    if dialect.delimiter is not None:
        return dialect.delimiter
    bare = _QUOTED.sub("", header)
    present = [delimiter for delimiter in _DELIMITERS if delimiter in bare]
    return present[0] if len(present) == 1 else dialect.usual_delimiter


class _Lines:
    """Lines of a file with their ends; those that were read ahead can be pushed back.

    Attributes:
        first: first line that is not blank; it is given all the same.
        number: number of the last line that was given, from 1.
        taken: lines that were given since the caller emptied it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        # Bytes that are not UTF-8 become lone surrogates, which spoil their own row only.
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self.number = 0
        while (line := self._read()) and not line.strip("\r\n"):
            self.number += 1
        self.first = line
        self._waiting = deque([line])
        self.taken: list[str] = []

    def _read(self) -> str:
        return self._text.readline(MAX_ROW_BYTES + 1)

    def __iter__(self) -> Iterator[str]:
        while line := self._waiting.popleft() if self._waiting else self._read():
            self.number += 1
            if len(line) > MAX_ROW_BYTES:
                raise OSError(f"line {self.number} is longer than {MAX_ROW_BYTES >> 20} MiB")
            self.taken.append(line)
            yield line

    def push_back(self, lines: list[str]) -> None:
        """Lines to give again, before all others."""
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)


def _records(lines: _Lines, delimiter: str, quotes: bool | None) -> Iterator[_Record]:
    """Yields the records of a file, without the check of those of several lines; blank lines are none."""
    csv.field_size_limit(MAX_ROW_BYTES)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if quotes is False else csv.QUOTE_MINIMAL
    columns = 0
    while True:
        try:
            for cells in csv.reader(iter(lines), delimiter=delimiter, quoting=quoting, strict=True):
                if cells:
                    columns = columns or len(cells)
                    yield _Record(cells, lines.taken)
                lines.taken = []
            return
        except csv.Error as error:
            record = _record_of_unpaired(lines, delimiter, quotes, columns, error)
        columns = columns or len(record.cells or ())
        yield record
        lines.taken = []


def _record_of_unpaired(lines: _Lines, delimiter: str, quotes: bool | None, columns: int, error: csv.Error) -> _Record:
    """Makes the record of the lines that were taken, whose quotes do not pair.

    Raises:
        csv.Error: it may be one record of several lines that is faulty, or several records.
    """
    first, *others = lines.taken
    cells = _split(first, delimiter)
    if quotes is None and delimiter == "\t" and (not others or len(cells) == columns):
        lines.push_back(others)
        return _Record(cells, [first], is_literal=True)
    if others:
        # An open quote takes the following lines into its cell. They may have been any number of rows.
        number = lines.number - len(others)
        raise csv.Error(f"the record that begins in line {number}: {error}; {REMEDY}") from None
    return _Record(None, [first])


def _split(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _rows_within(record: _Record, lines: _Lines, delimiter: str, columns: int) -> int:
    """Returns how many rows the lines of a record would be without quotes; 0 where they can only be one record.

    Spreadsheets end the lines within a cell otherwise than those of the file. A tab is hardly ever in a cell, so that
    two lines with the tabs of a row are suspect. A comma often is, so that all lines have to be like rows.
    """
    end = _end(lines.first)
    if any(_end(line) != end for line in record.lines[:-1]):
        return 0
    parts = [line for line in record.lines if line.strip("\r\n")]
    like_rows = sum(len(_split(line, delimiter)) == columns for line in parts)
    are_all_needed = delimiter != "\t" and len(record.cells or ()) == columns
    return len(parts) if like_rows > 1 and (like_rows == len(parts) or not are_all_needed) else 0


def _end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]


def _are_quotes_proven(open_file: Callable[[], IO[bytes]], delimiter: str) -> bool:
    """Returns whether a record can be read only with quotes around cells, and no other contradicts that."""
    proven, columns = False, 0
    try:
        with open_file() as file:
            lines = _Lines(file)
            for record in _records(lines, delimiter, None):
                columns = columns or len(record.cells or ())
                if record.is_literal or len(record.cells or ()) != columns:
                    return False
                if len(record.lines) > 1:
                    proven = proven or not _rows_within(record, lines, delimiter, columns)
                elif '"' in record.lines[0]:
                    proven = proven or len(_split(record.lines[0], delimiter)) != columns
    except csv.Error:
        return False
    return proven

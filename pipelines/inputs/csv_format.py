"""CSV and TSV: a record for each row, below a header; every cell is text.

Invariant: a faulty record spoils its own row only. Where that cannot be known (see `csv_records`), the file is refused.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from pipelines.inputs.compression import format_ending
from pipelines.inputs.csv_records import REMEDY, Dialect, csv_records
from pipelines.inputs.sources import NOT_UTF8, FileSource, InputRow, Skip, skip_items
from schemas.job import Input


@dataclass(frozen=True)
class CsvSource(FileSource):
    """A CSV file with a header. Blank lines are not rows.

    Args:
        delimiter: character between cells; None: the usual one, or that of the header.
        quotes: whether quotes enclose cells; None: where they can only do that.
    """

    format = "csv"
    endings = (".csv", ".tsv")
    read_errors = (csv.Error,)

    delimiter: str | None = None
    quotes: bool | None = None

    @classmethod
    def options(cls, section: Input) -> dict[str, Any]:
        """Returns the dialect that a job names."""
        return {**super().options(section), "delimiter": section.delimiter, "quotes": section.quotes}

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
        usual_delimiter = "\t" if format_ending(self.path) == ".tsv" else ","
        return csv_records(self.name, self.open, Dialect(self.delimiter, self.quotes, usual_delimiter))


def _read_header(records: Iterator[list[str] | None]) -> list[str]:
    for header in records:
        if header is None:
            raise csv.Error(f"the quotes of its header do not pair; {REMEDY}")
        if not _is_utf8(header):
            raise csv.Error(f"its header is not {NOT_UTF8}")
        return header
    return []


def _row(header: list[str], cells: list[str] | None) -> InputRow:
    if cells is None:
        return InputRow(None, f"the quotes of the row do not pair; {REMEDY}")
    if len(cells) != len(header):
        return InputRow(None, f"the row has {len(cells)} cells and the header {len(header)}")
    if not _is_utf8(cells):
        return InputRow(None, f"the row is not {NOT_UTF8}")
    return InputRow(dict(zip(header, cells, strict=True)))


def _is_utf8(cells: list[str]) -> bool:
    # Bytes that are not UTF-8 are lone surrogates here.
    return not any("\udc80" <= character <= "\udcff" for cell in cells for character in cell)

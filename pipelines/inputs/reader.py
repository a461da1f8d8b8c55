"""The input of a job as one sequence of rows, whatever files or dataset it lies in.

Invariant: row number n of an input is the same row each time that it is read; a source that has fewer rows than when
the run was planned is an error, and never shifts the rows after it.

Rows come in input order, as dicts of the fields that the recipe needs, and each file is read once from its beginning.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterator
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

from pipelines.inputs.class_labels import Names
from pipelines.inputs.columns import (
    ask,
    check_columns,
    check_mapping,
    columns_to_read,
    log_absent,
    refuse_hidden_columns,
    unreadable,
)
from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.hugging_face import HuggingFaceDataset
from pipelines.inputs.sources import MAX_ROW_BYTES, InputRow, Skip, Source, identify_content, rows_with_names
from schemas.errors import JobError
from schemas.job import Input
from schemas.run import InputSource

# Deeper values would exhaust Python's stack where they are copied or written; no chat or table is as deep.
_MAX_NESTING = 64


class RowCursor(Protocol):
    """A position in the input of a job that moves forward."""

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        """Yields (source, row index in it, row) for rows `start` to `end` - 1, numbered over all sources.

        Rows between the previous range and this one are skipped unparsed; a range before the previous one opens its
        file again. Exhaust or drop this iterator before the next call.

        Raises:
            JobError: a file is damaged, or has fewer rows than when the run was planned.
        """
        ...


class InputRows(ABC):
    """All rows of an input, numbered over its sources.

    Attributes:
        inputs: name, number of rows, and content hash of each source, after `input.limit`.
    """

    inputs: list[InputSource]

    @abstractmethod
    def cursor(self) -> RowCursor:
        """Returns a cursor that reads range after range, each file once."""

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        """Yields (source, row index in it, row) for rows `start` to `end` - 1."""
        return self.cursor().rows(start, end)

    def all_rows(self) -> Iterator[tuple[str, int, InputRow]]:
        """Yields (source, row index in it, row) for all rows."""
        return self.rows(0, sum(source.rows for source in self.inputs))


class InputReader(InputRows):
    """All sources of a job, as one sequence of rows.

    Args:
        section: the `input` section of the job.
        fields: fields of the recipe. A field is read from the column of its name, or of its name in `input.columns`.
        optional: fields that need no column, unless the job names a column for them.
        rare: optional fields that most inputs lack, so that their absence is not worth a word.

    Raises:
        JobError: the input has no rows, a file is missing or damaged, or a column is missing.
    """

    def __init__(
        self, section: Input, fields: list[str], optional: Collection[str] = (), rare: Collection[str] = ()
    ) -> None:
        self._sources: list[Source] = [HuggingFaceDataset(section)] if section.dataset else [*input_files(section)]
        self._keeps_all = section.keep == "all"
        self._columns = {name: section.columns.get(name, name) for name in fields}
        if self._keeps_all:
            self._columns |= section.columns  # those that no field needs are kept under these names
        else:
            check_mapping(section, fields)
        kept = [] if section.keep == "all" else section.keep
        self._columns.update((column, column) for column in kept if column not in self._columns)
        named = {*section.columns, *kept}
        required = {field: c for field, c in self._columns.items() if field in named or field not in optional}
        for source in self._sources:
            check_columns(source, required, fields)
            if self._keeps_all:
                refuse_hidden_columns(source, self._columns)
        log_absent(self._sources, {field: c for field, c in self._columns.items() if field not in {*required, *rare}})
        self._read = [columns_to_read(source, self._columns, self._keeps_all) for source in self._sources]
        pairs = zip(self._sources, self._read, strict=True)
        self._names = [ask(source, partial(source.label_names, read)) for source, read in pairs]
        self.inputs = _limited([*map(_describe, self._sources, self._names)], section.limit)
        if not sum(source.rows for source in self.inputs):
            key, value = ("dataset", section.dataset) if section.dataset else ("path", section.path)
            raise JobError(f"input.{key}", value, "the input has no rows", "name an input that has some")

    def cursor(self) -> RowCursor:
        """Returns a cursor that reads range after range, each file once."""
        return _InputCursor(self._sources, self.inputs, self._columns, self._read, self._names, self._keeps_all)


class _InputCursor:
    """A position in the sources. A file is opened once, and each of its rows is read once.

    Args:
        sources: sources of the rows.
        inputs: number of rows of each source.
        columns: column of each field.
        read: columns that are read, of each source.
        names: names of class labels by column, of each source.
        keeps_all: whether a row has all other columns of its source too, under their own names.
    """

    def __init__(
        self,
        sources: list[Source],
        inputs: list[InputSource],
        columns: dict[str, str],
        read: list[list[str]],
        names: list[dict[str, Names]],
        keeps_all: bool,
    ) -> None:
        self._read, self._keeps_all = read, keeps_all
        self._sources, self._inputs, self._columns, self._names = sources, inputs, columns, names
        self._ends = list(accumulate(source.rows for source in inputs))
        # The open source, the index of its next row, and its iterator, which reads `_skip` before each row.
        self._source_number = -1
        self._next_index = 0
        self._skip = Skip()
        self._rows: Iterator[InputRow] = iter(())

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        for number in range(bisect_right(self._ends, start), len(self._ends)):
            first = self._ends[number] - self._inputs[number].rows
            if first >= end:
                return
            yield from self._rows_of(number, max(start - first, 0), min(end - first, self._inputs[number].rows))

    def _rows_of(self, number: int, low: int, high: int) -> Iterator[tuple[str, int, InputRow]]:
        source = self._sources[number]
        if number != self._source_number or low < self._next_index:
            self._source_number, self._next_index, self._skip = number, 0, Skip()
            self._rows = _read(source, self._read[number], self._skip, self._names[number])
        # The source skips only when the next row is asked for, so a skip that follows another is added to it.
        self._skip.rows += low - self._next_index
        self._next_index = low
        for index in range(low, high):
            row = next(self._rows, None)
            if row is None:
                # Rows that could not be skipped any more are missing too.
                raise _too_short(source, self._inputs[number].rows, index - self._skip.rows)
            self._next_index = index + 1
            yield source.name, index, row if row.values is None else self._fields_row(row.values)

    def _fields_row(self, values: dict[str, Any]) -> InputRow:
        fields = {name: values.get(column) for name, column in self._columns.items()}
        if self._keeps_all:
            read = set(self._columns.values())
            fields |= {column: value for column, value in values.items() if column not in read}
        fault = _fault(fields)
        return InputRow(None, fault) if fault else InputRow(fields)


def _describe(source: Source, names: dict[str, Names]) -> InputSource:
    content = ask(source, partial(identify_content, source, names))
    return InputSource(source=source.name, rows=ask(source, source.count), content=content)


def _read(source: Source, columns: list[str], skip: Skip, names: dict[str, Names]) -> Iterator[InputRow]:
    try:
        yield from rows_with_names(source, columns, skip, names)
    except READ_ERRORS as error:
        remedy = "what is finished is kept: put the file back as it was to resume, or start another run without it"
        raise unreadable(source, error, remedy) from None


def _too_short(source: Source, planned_rows: int, rows: int) -> JobError:
    cause = f"it had {planned_rows} rows when the run was planned and ends after {rows} now"
    return JobError("input", source.name, cause, "restore the file, or start a new run")


def _fault(fields: dict[str, Any]) -> str:
    """Returns the fault of a row whose values are too large, nested too deeply, or no text; "" for any other row."""
    size, values = 0, list(fields.values())
    for _ in range(_MAX_NESTING):
        below: list[Any] = []
        for value in values:
            if isinstance(value, str):
                size += len(value)
                if "\0" in value:
                    return "a text has a NUL character"
            elif isinstance(value, bytes):
                return f"{_name_of_bytes(fields)} has bytes, not text"
            elif isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, (list, tuple)):
                below.extend(value)
        if size > MAX_ROW_BYTES:
            return f"the row holds more than {MAX_ROW_BYTES >> 20} MiB"
        if not below:
            return ""
        values = below
    return f"a value is nested more than {_MAX_NESTING} deep"


def _name_of_bytes(fields: dict[str, Any]) -> str:
    """Returns the name of the field that has bytes in it, at any depth."""

    def has_bytes(value: Any) -> bool:
        below = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return isinstance(value, bytes) or any(map(has_bytes, below))

    return next(name for name, value in fields.items() if has_bytes(value))


def _limited(sources: list[InputSource], limit: int | None) -> list[InputSource]:
    """Returns the sources that the first `limit` rows come from, the last one with fewer rows than it has."""
    if limit is None:
        return sources
    limited = []
    for source in sources:
        if not limit:
            break
        rows = min(source.rows, limit)
        limit -= rows
        limited.append(source.model_copy(update={"rows": rows}))
    return limited

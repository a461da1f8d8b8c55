"""The input of a job as one sequence of rows, whatever files or dataset it lies in.

Invariant: row number n of an input is the same row each time that it is read; a source that has fewer rows than when
the run was planned is an error, and never shifts the rows after it.

Rows come in input order, as dicts of the fields that the recipe needs, and each file is read once from its beginning.
"""

import difflib
import logging
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, TypeVar

from pipelines.inputs.class_labels import Names
from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.hugging_face import HuggingFaceDataset
from pipelines.inputs.sources import MAX_ROW_BYTES, InputRow, Skip, Source, identify_content, rows_with_names
from schemas.errors import JobError
from schemas.job import Input
from schemas.run import InputSource
from schemas.text import shorten

# Deeper values would exhaust Python's stack where they are copied or written; no chat or table is as deep.
_MAX_NESTING = 64
# Columns of a very wide file that are compared for a hint, and that are named in the error.
_MAX_COLUMNS_COMPARED, _MAX_COLUMNS_SHOWN = 1000, 20

Answer = TypeVar("Answer")

_log = logging.getLogger("kindling")


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
        _check_mapping(section, fields)
        self._columns = {name: section.columns.get(name, name) for name in fields}
        self._columns.update((column, column) for column in section.keep if column not in self._columns)
        named = {*section.columns, *section.keep}
        required = {field: c for field, c in self._columns.items() if field in named or field not in optional}
        for source in self._sources:
            _check_columns(source, required, fields)
        _log_absent(self._sources, {field: c for field, c in self._columns.items() if field not in {*required, *rare}})
        columns = self._columns.values()
        self._names = [_ask(source, partial(source.label_names, columns)) for source in self._sources]
        self.inputs = _limited([*map(_describe, self._sources, self._names)], section.limit)
        if not sum(source.rows for source in self.inputs):
            key, value = ("dataset", section.dataset) if section.dataset else ("path", section.path)
            raise JobError(f"input.{key}", value, "the input has no rows", "name an input that has some")

    def cursor(self) -> RowCursor:
        """Returns a cursor that reads range after range, each file once."""
        return _InputCursor(self._sources, self.inputs, self._columns, self._names)


class _InputCursor:
    """A position in the sources. A file is opened once, and each of its rows is read once.

    Args:
        sources: sources of the rows.
        inputs: number of rows of each source.
        columns: column of each field.
        names: names of class labels by column, of each source.
    """

    def __init__(
        self,
        sources: list[Source],
        inputs: list[InputSource],
        columns: dict[str, str],
        names: list[dict[str, Names]],
    ) -> None:
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
            columns = list(dict.fromkeys(self._columns.values()))
            self._rows = _read(source, columns, self._skip, self._names[number])
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
        fault = _fault(list(fields.values()))
        return InputRow(None, fault) if fault else InputRow(fields)


def _check_mapping(section: Input, fields: list[str]) -> None:
    for field in section.columns:
        if field not in fields:
            raise JobError(
                f"input.columns.{field}", section.columns[field], "the recipe has no such field",
                f"its fields are {', '.join(fields)}; `input.keep` carries other columns along",
            )  # fmt: skip


def _check_columns(source: Source, columns: dict[str, str], fields: Collection[str]) -> None:
    """Refuses a source that lacks a column: that of a field, or one to keep."""
    names = _ask(source, source.columns)
    if not names and not _ask(source, source.count):
        return  # an empty file among others does no harm
    counts = Counter(names)
    if duplicates := [name for name, count in counts.items() if count > 1]:
        cause = f"it names the column {shorten(repr(duplicates[0]))} twice"
        raise JobError("input.path", source.name, cause, "rename one of the two")
    for field, column in columns.items():
        if not _has_column(source, column, names):
            hint = _close_name(column, names)
            listed = shorten(", ".join(names[:_MAX_COLUMNS_SHOWN])) or "none"
            more = f" and {len(names) - _MAX_COLUMNS_SHOWN} more" if len(names) > _MAX_COLUMNS_SHOWN else ""
            key, remedy = f"input.columns.{field}", f"map the field to a column: input.columns: {{{field}: <column>}}"
            if field not in fields:
                key, remedy = "input.keep", "correct the name, or leave it out"
            raise JobError(key, column, f"{source.name} has no such column; it has {listed}{more}", f"{hint}{remedy}")


def _log_absent(sources: list[Source], optional: dict[str, str]) -> None:
    """Warns of optional columns that a source lacks: a misspelt name would be blank in every row without a word."""
    for field, column in optional.items():
        absent = [
            (source, names)
            for source in sources
            if (names := _ask(source, source.columns)) and not _has_column(source, column, names)
        ]
        if absent:
            source, names = absent[0]
            more = f" (and in {len(absent) - 1} other files)" if len(absent) > 1 else ""
            _log.warning(
                "%s has no column %r, so %s is blank there%s: %sif that is not meant, map it to a column: "
                "input.columns: {%s: <column>}", source.name, column, field, more, _close_name(column, names), field,
            )  # fmt: skip


def _has_column(source: Source, column: str, names: list[str]) -> bool:
    """Returns whether a source has a column, given the names in its first rows."""
    return column in names or _ask(source, partial(source.has_late_column, column))


def _close_name(column: str, names: list[str]) -> str:
    close = difflib.get_close_matches(column, names[:_MAX_COLUMNS_COMPARED], n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def _describe(source: Source, names: dict[str, Names]) -> InputSource:
    content = _ask(source, partial(identify_content, source, names))
    return InputSource(source=source.name, rows=_ask(source, source.count), content=content)


def _ask(source: Source, question: Callable[[], Answer]) -> Answer:
    """Calls a method of a source; a file that cannot be read becomes a JobError."""
    try:
        return question()
    except READ_ERRORS as error:
        raise _unreadable(source, error, "repair the file, or leave it out of the input") from None


def _read(source: Source, columns: list[str], skip: Skip, names: dict[str, Names]) -> Iterator[InputRow]:
    try:
        yield from rows_with_names(source, columns, skip, names)
    except READ_ERRORS as error:
        remedy = "what is finished is kept: put the file back as it was to resume, or start another run without it"
        raise _unreadable(source, error, remedy) from None


def _unreadable(source: Source, error: Exception, remedy: str) -> JobError:
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return JobError("input.path", source.name, f"cannot be read: {shorten(first_line)}", remedy)


def _too_short(source: Source, planned_rows: int, rows: int) -> JobError:
    cause = f"it had {planned_rows} rows when the run was planned and ends after {rows} now"
    return JobError("input", source.name, cause, "restore the file, or start a new run")


def _fault(values: list[Any]) -> str:
    """Returns the fault of a row whose values are too large, nested too deeply, or no text; "" for any other row."""
    size = 0
    for _ in range(_MAX_NESTING):
        below: list[Any] = []
        for value in values:
            if isinstance(value, (str, bytes)):
                size += len(value)
                if isinstance(value, str) and "\0" in value:
                    return "a text has a NUL character"
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

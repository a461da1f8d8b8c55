"""The input of a job as one sequence of rows, whatever files or dataset it lies in (see sources.py for the formats).

Rows come as dicts of the columns that the recipe needs, in input order, on one way through each file.
"""

import difflib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from typing import Any, TypeVar

from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.hugging_face import HuggingFaceDataset
from pipelines.inputs.sources import MAX_ROW_BYTES, InputRow, Skip, Source
from schemas.errors import JobError
from schemas.job import Input
from schemas.run import InputSource
from schemas.text import shorten

# Values that are nested deeper than any chat or table end Python's stack where they are copied or written.
_DEEPEST = 64
# Of a file with very many columns, so many are looked at for a hint, and so many named.
_MOST_COLUMNS_COMPARED, _MOST_COLUMNS_SHOWN = 1000, 20

Answer = TypeVar("Answer")


class InputReader:
    """All sources of a job, as one sequence of rows.

    Args:
        section: the `input` section of the job.
        fields: the recipe's fields; each is read from the column of its name, or the one `input.columns` maps it to.
        optional: those whose column need not be there; where the job names it, it must be.

    Raises:
        JobError: nothing is there, a file cannot be read, or a column is missing.
    """

    def __init__(self, section: Input, fields: list[str], optional: Collection[str] = ()) -> None:
        self._sources: list[Source] = [HuggingFaceDataset(section)] if section.dataset else [*input_files(section)]
        _check_mapping(section, fields)
        self._columns = {name: section.columns.get(name, name) for name in fields}
        self._columns.update((column, column) for column in section.keep if column not in self._columns)
        named = {*section.columns, *section.keep}
        required = {field: c for field, c in self._columns.items() if field in named or field not in optional}
        for source in self._sources:
            _check_columns(source, required)
        self.inputs = _limited([_described(source) for source in self._sources], section.limit)
        if not sum(source.rows for source in self.inputs):
            key = "dataset" if section.dataset else "path"
            raise JobError(
                f"input.{key}", getattr(section, key), "the input has no rows", "name an input that has some"
            )

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        """(source, row index in it, row) of the rows from `start` to before `end`, counted over all sources."""
        return self.cursor().rows(start, end)

    def cursor(self) -> "InputCursor":
        """Reads range after range on one way through the input."""
        return InputCursor(self._sources, self.inputs, self._columns)


class InputCursor:
    """A place in the input, which moves forward: each file is opened once, and each of its rows read once.

    Args:
        sources: where the rows lie.
        inputs: how many rows of each there are.
        columns: the column of each field.
    """

    def __init__(self, sources: list[Source], inputs: list[InputSource], columns: dict[str, str]) -> None:
        self._sources, self._inputs, self._columns = sources, inputs, columns
        self._ends = list(accumulate(source.rows for source in inputs))
        self._number = -1
        self._at = 0
        self._skip = Skip()
        self._rows: Iterator[InputRow] = iter(())

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        """(source, row index in it, row) of a range of rows, counted over all sources.

        What lies between the range before and this one is passed over unparsed; a range that lies before it starts
        its file anew. To be exhausted, or left, before the next range is asked for.
        """
        for number in range(bisect_right(self._ends, start), len(self._ends)):
            first = self._ends[number] - self._inputs[number].rows
            if first >= end:
                return
            yield from self._rows_of(number, max(start - first, 0), min(end - first, self._inputs[number].rows))

    def _rows_of(self, number: int, low: int, high: int) -> Iterator[tuple[str, int, InputRow]]:
        source = self._sources[number]
        if number != self._number or low < self._at:
            self._number, self._at, self._skip = number, 0, Skip()
            self._rows = _read(source, list(dict.fromkeys(self._columns.values())), self._skip)
        self._skip.rows += low - self._at
        self._at = low
        for index in range(low, high):
            row = next(self._rows, None)
            if row is None:
                raise _shrunk(source, self._inputs[number].rows, index - self._skip.rows)
            self._at = index + 1
            yield source.name, index, row if row.values is None else self._fields_of(row.values)

    def _fields_of(self, values: dict[str, Any]) -> InputRow:
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


def _check_columns(source: Source, columns: dict[str, str]) -> None:
    names = _readable(source, source.columns)
    if not names and not _readable(source, source.count):
        return  # an empty file among others does no harm
    there = Counter(names)
    if twice := [name for name, times in there.items() if times > 1]:
        cause = f"it names the column {shorten(repr(twice[0]))} twice"
        raise JobError("input.path", source.name, cause, "rename one of the two")
    for field, column in columns.items():
        if column not in there:
            close = difflib.get_close_matches(column, names[:_MOST_COLUMNS_COMPARED], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            listed = shorten(", ".join(names[:_MOST_COLUMNS_SHOWN]))
            more = f" and {len(names) - _MOST_COLUMNS_SHOWN} more" if len(names) > _MOST_COLUMNS_SHOWN else ""
            raise JobError(
                f"input.columns.{field}", column, f"{source.name} has no such column; it has {listed}{more}",
                f"{hint}map the field to a column: input.columns: {{{field}: <column>}}",
            )  # fmt: skip


def _described(source: Source) -> InputSource:
    return InputSource(
        source=source.name, rows=_readable(source, source.count), content=_readable(source, source.content)
    )


def _readable(source: Source, question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except READ_ERRORS as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Source, error: Exception, remedy: str = "") -> JobError:
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    cause = f"cannot be read: {shorten(first_line)}"
    return JobError("input.path", source.name, cause, remedy or "repair the file, or leave it out of the input")


def _shrunk(source: Source, planned: int, there: int) -> JobError:
    cause = f"it had {planned} rows when the run was planned and ends after {there} now"
    return JobError("input", source.name, cause, "restore the file, or start a new run")


def _read(source: Source, columns: list[str], skip: Skip) -> Iterator[InputRow]:
    try:
        yield from source.rows(columns, skip)
    except READ_ERRORS as error:
        remedy = "what is finished is kept: put the file back as it was to resume, or start another run without it"
        raise _unreadable(source, error, remedy) from None


def _fault(values: list[Any]) -> str:
    """What is wrong with a row whose values are too large, or nested too deeply; or ""."""
    size = 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for value in values:
            if isinstance(value, (str, bytes)):
                size += len(value)
            elif isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, (list, tuple)):
                below.extend(value)
        if size > MAX_ROW_BYTES:
            return f"the row holds more than {MAX_ROW_BYTES >> 20} MiB"
        if not below:
            return ""
        values = below
    return f"a value is nested more than {_DEEPEST} deep"


def _limited(sources: list[InputSource], limit: int | None) -> list[InputSource]:
    if limit is None:
        return sources
    kept = []
    for source in sources:
        if not limit:
            break
        rows = min(source.rows, limit)
        limit -= rows
        kept.append(source.model_copy(update={"rows": rows}))
    return kept

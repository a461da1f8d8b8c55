"""The input of a job as one sequence of rows, whatever files or dataset it lies in (see sources.py for the formats).

Rows come as dicts of the columns that the recipe needs, in input order, on one way through each file.
"""

import csv
import difflib
import lzma
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeVar

import fsspec
import pyarrow as pa

from pipelines.sources import SOURCE_OF_FORMAT, InputRow, Skip, Source, dataset_source, suffix_of
from schemas.errors import JobError
from schemas.job import Input
from schemas.run import InputSource
from services.filesystem import is_local, resolve

_FORMAT_OF_SUFFIX = {
    ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".csv": "csv", ".tsv": "csv",
    ".txt": "text", ".text": "text",
}  # fmt: skip
_UNREADABLE = (OSError, EOFError, pa.ArrowException, csv.Error, UnicodeDecodeError, zlib.error, lzma.LZMAError)

Answer = TypeVar("Answer")


class InputReader:
    """All sources of a job, as one sequence of rows.

    Args:
        section: the `input` section of the job.
        fields: the recipe's fields; each is read from the column of its name, or the one `input.columns` maps it to.

    Raises:
        JobError: nothing is there, a file cannot be read, or a column is missing.
    """

    def __init__(self, section: Input, fields: list[str]) -> None:
        self._sources = [dataset_source(section)] if section.dataset else _file_sources(section)
        _check_mapping(section, fields)
        self._columns = {name: section.columns.get(name, name) for name in fields}
        self._columns.update((column, column) for column in section.keep if column not in self._columns)
        for source in self._sources:
            _check_columns(source, self._columns)
        self.inputs = _limited([_described(source) for source in self._sources], section.limit)
        if not sum(source.rows for source in self.inputs):
            where = section.dataset or section.path
            raise JobError("input", where, "the input has no rows", "name an input that has some")

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
            if row.values is not None:
                row = InputRow({name: row.values.get(column) for name, column in self._columns.items()})
            yield source.name, index, row


def _file_sources(section: Input) -> list[Source]:
    patterns = [section.path] if isinstance(section.path, str) else section.path or []
    found: dict[str, Source] = {}
    for pattern in patterns:
        fs, path = resolve(pattern, "input.path", section.storage_options)
        for match in _matches(fs, path, pattern):
            name = _name(fs, match, pattern)
            found[name] = SOURCE_OF_FORMAT[_format(match, section)](name, fs, match)
    return list(found.values())


def _matches(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> list[str]:
    if any(character in path for character in "*?[") and not fs.exists(path):
        matches = sorted(match for match in fs.glob(path) if fs.isfile(match))
    elif fs.isdir(path):
        matches = sorted(match for match in fs.find(path) if _known_suffix(match))
    else:
        matches = [path] if fs.isfile(path) else []
    if not matches:
        raise JobError("input.path", pattern, "no such file", "paths are relative to the folder you run the command in")
    return matches


def _name(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> str:
    """As the job names it: a relative path stays relative, so that a run can be resumed from another machine."""
    if not is_local(fs):
        return fs.unstrip_protocol(path)
    return path if os.path.isabs(os.path.expanduser(pattern)) or "://" in pattern else os.path.relpath(path)


def _known_suffix(path: str) -> str | None:
    return _FORMAT_OF_SUFFIX.get(suffix_of(path))


def _format(path: str, section: Input) -> str:
    if section.format != "auto":
        return section.format
    if found := _known_suffix(path):
        return found
    raise JobError(
        "input.path", path, "its ending does not tell its format", "set input.format to parquet, jsonl, csv or text"
    )


def _check_mapping(section: Input, fields: list[str]) -> None:
    for field in section.columns:
        if field not in fields:
            raise JobError(
                f"input.columns.{field}", section.columns[field], "the recipe has no such field",
                f"its fields are {', '.join(fields)}; `input.keep` carries other columns along",
            )  # fmt: skip


def _check_columns(source: Source, columns: dict[str, str]) -> None:
    there = _readable(source, source.columns)
    if not there and not _readable(source, source.count):
        return  # an empty file among others does no harm
    for field, column in columns.items():
        if column not in there:
            close = difflib.get_close_matches(column, there, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise JobError(
                f"input.columns.{field}", column, f"{source.name} has no such column; it has {', '.join(there)}",
                f"{hint}map the field to a column: input.columns: {{{field}: <column>}}",
            )  # fmt: skip


def _described(source: Source) -> InputSource:
    return InputSource(
        source=source.name, rows=_readable(source, source.count), content=_readable(source, source.content)
    )


def _readable(source: Source, question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except _UNREADABLE as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Source, error: Exception) -> JobError:
    cause = f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return JobError("input.path", source.name, cause, "repair the file, or leave it out of the input")


def _shrunk(source: Source, planned: int, there: int) -> JobError:
    cause = f"it had {planned} rows when the run was planned and ends after {there} now"
    return JobError("input", source.name, cause, "restore the file, or start a new run")


def _read(source: Source, columns: list[str], skip: Skip) -> Iterator[InputRow]:
    try:
        yield from source.rows(columns, skip)
    except _UNREADABLE as error:
        raise _unreadable(source, error) from None


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

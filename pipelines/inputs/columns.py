"""Columns of the sources of an input: those that the fields of a recipe need, and those that are kept beside them."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.sources import Source
from schemas.errors import JobError
from schemas.job import Input
from schemas.text import shorten

# Columns of a very wide file that are compared for a hint, and that are named in the error.
_MAX_COLUMNS_COMPARED, _MAX_COLUMNS_SHOWN = 1000, 20

Answer = TypeVar("Answer")

_log = logging.getLogger("kindling")


def columns_to_read(source: Source, columns: dict[str, str], keeps_all: bool) -> list[str]:
    """Returns the columns that are read of a source.

    Args:
        columns: column of each field.
        keeps_all: whether all other columns are read too.
    """
    return list(dict.fromkeys([*columns.values(), *(ask(source, source.columns) if keeps_all else ())]))


def check_mapping(section: Input, fields: list[str]) -> None:
    """Refuses names in `input.columns` that are no fields."""
    if unknown := [field for field in section.columns if field not in fields]:
        key, value = f"input.columns.{unknown[0]}", section.columns[unknown[0]]
        cause = "the recipe, or its prompt, has no such field"
        if unknown[1:]:
            cause += f"; nor {' nor '.join(unknown[1:])}"
        remedy = f"its fields are {', '.join(fields)}: take the others out; `input.keep` carries columns along"
        raise JobError(key, value, cause, remedy)


def refuse_hidden_columns(source: Source, columns: dict[str, str]) -> None:
    """Refuses a source with a column that `input.keep: all` could not keep, as a field has its name."""
    names = ask(source, source.columns)
    for field, column in columns.items():
        if column != field and field not in columns.values() and field in names:
            cause = f"the column {field!r} of {source.name} has the name of a field, which is read from {column!r}"
            raise JobError("input.keep", "all", cause, "name the columns to keep, or rename that one")


def check_columns(source: Source, columns: dict[str, str], fields: Collection[str]) -> None:
    """Refuses a source that lacks a column: that of a field, or one to keep."""
    names = ask(source, source.columns)
    if not names and not ask(source, source.count):
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


def log_absent(sources: list[Source], optional: dict[str, str]) -> None:
    """Warns of optional columns that a source lacks: a misspelt name would be blank in every row without a word."""
    for field, column in optional.items():
        absent = [
            (source, names)
            for source in sources
            if (names := ask(source, source.columns)) and not _has_column(source, column, names)
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
    return column in names or ask(source, partial(source.has_late_column, column))


def _close_name(column: str, names: list[str]) -> str:
    close = difflib.get_close_matches(column, names[:_MAX_COLUMNS_COMPARED], n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def ask(source: Source, question: Callable[[], Answer]) -> Answer:
    """Calls a method of a source; a file that cannot be read becomes a JobError."""
    try:
        return question()
    except READ_ERRORS as error:
        raise unreadable(source, error, "repair the file, or leave it out of the input") from None


def unreadable(source: Source, error: Exception, remedy: str) -> JobError:
    """Makes the error for a source that cannot be read."""
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return JobError("input.path", source.name, f"cannot be read: {shorten(first_line)}", remedy)

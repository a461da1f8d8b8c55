"""Reads the texts of reference sets: all texts in files of any format, at any depth."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.json_format import JsonSource
from pipelines.inputs.sources import FileSource, Skip
from pipelines.quality_control.reference_sets import ReferenceSets
from schemas.errors import JobError
from schemas.job import Input
from schemas.text import shorten

Paths = str | Sequence[str]
"""a file, a folder, a glob, or a list of them"""

# In the prompts that `kindling export --format prompts` writes, these are no part of the task.
_LABELS = re.compile(r"(?:^|(?<=\s))(?:Instruction|Input):\s")


def read_reference_sets(sets: Mapping[str, Paths], key: str) -> ReferenceSets | None:
    """Reads reference sets; None where there is none.

    Args:
        sets: files of each set, by its name.
        key: job key or option that names them, for errors.

    Raises:
        JobError: a file is missing or cannot be read, a set has no text to search for, or they are too large.
    """
    if not sets:
        return None
    try:
        references = ReferenceSets({name: _texts(f"{key}.{name}", paths) for name, paths in sets.items()})
    except ValueError as error:
        remedy = "leave files out: a reference set holds test data, not a corpus"
        raise JobError(key, ", ".join(sets), str(error), remedy) from None
    for name in (name for name in sets if not references.searched[name]):
        cause = "no text in it has 5 words or more" if references.too_short[name] else "there is no text in it"
        raise JobError(f"{key}.{name}", str(sets[name]), cause, "name files with whole sentences")
    return references


def reference_contents(sets: Mapping[str, Paths], key: str) -> dict[str, str]:
    """Returns the content hashes of the files of each reference set, by its name.

    Raises:
        JobError: a file is missing or cannot be read.
    """
    contents = {}
    for name, paths in sets.items():
        with _errors_under(f"{key}.{name}", paths):
            contents[name] = " ".join(file.content() for file in _files(paths))
    return contents


def _files(paths: Paths) -> list[FileSource]:
    # Not validated: a job's schema has done it; and nothing of a command's options is stored.
    return input_files(Input.model_construct(path=paths if isinstance(paths, str) else list(paths)))


def _texts(key: str, paths: Paths) -> Iterator[str]:
    with _errors_under(key, paths):
        for file in _files(paths):
            for value in _values(key, file):
                for text in _strings(value):
                    yield from _LABELS.split(text)


def _values(key: str, file: FileSource) -> Iterator[Any]:
    if isinstance(file, JsonSource):
        yield file.document()
        return
    for number, row in enumerate(file.rows(file.columns(), Skip())):
        if row.values is None:
            raise JobError(key, f"{file.name}, row {number}", row.fault, "repair the row, or leave the file out")
        yield row.values


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


@contextmanager
def _errors_under(key: str, paths: Paths) -> Iterator[None]:
    """Inside the block errors of the files become errors of the key."""
    try:
        yield
    except JobError as error:
        if not error.key.startswith("input."):
            raise
        raise JobError(key, error.value, error.cause, error.remedy) from None
    except READ_ERRORS as error:
        first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
        remedy = "repair the file, or leave it out"
        raise JobError(key, str(paths), f"cannot be read: {shorten(first_line)}", remedy) from None
    except RecursionError:
        raise JobError(key, str(paths), "its values are nested too deeply", "leave the file out") from None

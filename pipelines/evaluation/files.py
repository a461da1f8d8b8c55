"""JSON files and tables that a job names; the first fault in a file is an error that names the job's key."""

import json
import zlib
from collections.abc import Iterator
from typing import Any

from pipelines.inputs.cells import text_cell, text_or_blank_cell
from pipelines.inputs.compression import format_ending
from pipelines.inputs.json_format import MAX_JSON_BYTES
from pipelines.inputs.other_content import describe_content
from pipelines.inputs.reader import InputReader
from pipelines.inputs.sources import refuse_wide_text
from schemas.emotions import EMOTIONS, parse_emotions
from schemas.errors import JobError
from schemas.evaluate import PromptSet, Responses
from schemas.job import Input
from schemas.rows import RowError
from schemas.text import shorten
from services.storage.filesystem import resolve

_REMEDY = "correct the file, or name another; docs/evaluate.md describes the formats"


def is_json(url: str) -> bool:
    """Returns whether a file is one JSON document, judged by its ending."""
    return format_ending(url) == ".json"


def read_json(key: str, url: str) -> Any:
    """Reads a JSON document.

    Raises:
        JobError: the file is missing, larger than MAX_JSON_BYTES, or not JSON.
    """
    fs, path = resolve(url, key)
    try:
        with fs.open(path, "rb", compression="infer") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise JobError(key, url, f"it is larger than {MAX_JSON_BYTES >> 20} MiB", "write it as JSONL")
        refuse_wide_text(key, url, data)
        if other := describe_content(data):
            raise JobError(key, url, *other)
        if not data.strip():
            raise JobError(key, url, "the file is empty", _REMEDY)
        return json.loads(data.decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error) as error:
        cause = f"cannot be read: {getattr(error, 'strerror', None) or shorten(str(error))}"
        raise JobError(key, url, cause, _REMEDY) from None
    except (ValueError, RecursionError) as error:
        raise JobError(key, url, f"not valid JSON: {shorten(str(error))}", _REMEDY) from None


def read_table(
    key: str, url: str, section: PromptSet | Responses, fields: list[str], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads a table row by row: (place of the row, its fields).

    Args:
        section: section of the job, which has the columns of fields with another name and the dialect of CSV files.
        optional: fields that a table may lack; their values are None then.

    Raises:
        JobError: the file cannot be read or lacks a column, or a row is broken.
    """
    try:
        columns = {str(field): column for field, column in section.columns.items()}
        table = Input(path=url, columns=columns, delimiter=section.delimiter, quotes=section.quotes)
        reader = InputReader(table, fields, optional)
        for source, index, row in reader.all_rows():
            if row.values is None:
                raise JobError(key, f"{source}, row {index}", row.fault, _REMEDY)
            yield f"{source}, row {index}", row.values
    except JobError as error:
        if error.key.startswith("input."):
            remedy = error.remedy.replace("input.columns", f"{key.rpartition('.')[0]}.columns")
            raise JobError(key, error.value, error.cause, remedy) from None
        raise


def text_of(key: str, where: str, value: Any, blank: bool = False) -> str:
    """Checks that a value is a text, and returns it unchanged.

    Args:
        where: place of the value, for the error.
        blank: allow an empty text.

    Raises:
        JobError: the value is no text, or empty.
    """
    try:
        return (text_or_blank_cell if blank else text_cell)({"the text": value}, "the text")
    except RowError as error:
        raise JobError(key, where, str(error), _REMEDY) from None


def emotion_of(key: str, where: str, value: Any) -> str:
    """Checks that a value is one of the 28 GoEmotions labels, and returns it as GoEmotions writes it.

    Raises:
        JobError: the value is no label, or several.
    """
    try:
        first, *others = parse_emotions(value)
        if others:
            raise ValueError(f"has the labels {', '.join([first, *others])}, and one is needed")
    except ValueError as error:
        cause = str(error) if value is not None else "the emotion is null"
        raise JobError(key, where, cause, f"the labels are {', '.join(EMOTIONS)}") from None
    return first


def lists_by_emotion(key: str, url: str, data: dict[str, Any]) -> Iterator[tuple[str, str, list[Any]]]:
    """Entries of `{emotion: [...]}`, each as (place, emotion, list).

    Raises:
        JobError: an emotion is unknown, or its value is no list or an empty one.
    """
    for emotion, values in data.items():
        emotion = emotion_of(key, url, emotion)
        if not isinstance(values, list) or not values:
            cause = "an empty list" if values == [] else f"a JSON {type(values).__name__}, not a list"
            remedy = "give it some, or leave the emotion out: there is no rate of nothing"
            raise JobError(key, f"{url}, {emotion}", cause, remedy)
        yield f"{url}, {emotion}", emotion, values

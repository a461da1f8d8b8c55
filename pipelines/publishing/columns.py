"""Columns of an export: those of the rows, those of the input rows, and those of a format for trainers."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from pipelines.publishing.chat_formats import CHAT_FORMATS, ChatFormat
from schemas.errors import JobError
from schemas.text import shorten

_INPUTS = "inputs"
_PREFIX = f"{_INPUTS}."
_OPTION = "--columns"
_SCALARS = (pa.string(), pa.bool_(), pa.int64(), pa.float64())
# Names of the floats that JSON does not have, as a row's `inputs` has them.
_NO_JSON = ("nan", "inf", "-inf")
# A float holds every whole number up to this one.
_MAX_EXACT = 1 << 53
_MAX_INT, _MAX_UNSIGNED = (1 << 63) - 1, (1 << 64) - 1


class Columns:
    """The columns of an export, in their order.

    Args:
        asked: names of the columns: those of the rows, and `inputs.NAME` for one of the input row. Without any, all
            columns of the rows; with a chat format none but its own.
        flatten: give each column of the input row in place of the column `inputs`.
        chat: chat format, whose columns come first.
        rows: columns of the rows.
        inputs: all rows with their column `inputs`; they are read where the types of its columns are needed.

    Attributes:
        schema: schema of the exported tables.
        read: columns of the run that they are made from.

    Raises:
        JobError: a column does not exist or is asked for twice, or there is no column to flatten.
    """

    def __init__(
        self,
        asked: Sequence[str] | None,
        flatten: bool,
        chat: str | None,
        rows: pa.Schema,
        inputs: Iterable[pa.RecordBatch],
    ) -> None:
        own = CHAT_FORMATS[chat] if chat else []
        names = list(asked) if asked is not None else [] if chat else rows.names
        _check_names(names, rows)
        if flatten and _INPUTS not in names:
            raise JobError(
                "--flatten", None, f"{_INPUTS} is not among the columns", f"add it: {_OPTION} text,{_INPUTS}"
            )
        self._chat = [field.name for field in own]
        types = _input_types(inputs) if flatten or any(name.startswith(_PREFIX) for name in names) else {}
        if flatten:
            at = names.index(_INPUTS)
            new = [f"{_PREFIX}{key}" for key in types if f"{_PREFIX}{key}" not in names]
            names[at : at + 1] = new
        self._inputs: dict[str, str] = {}
        """name of a column of the input row in the export -> its name in the input row"""
        taken = {*self._chat, *(name for name in names if not name.startswith(_PREFIX))}
        fields = list(own)
        for name in names:
            if not name.startswith(_PREFIX):
                fields.append(rows.field(name))
                continue
            key = name.removeprefix(_PREFIX)
            if key not in types:
                there = f"the input rows have {shorten(', '.join(types))}" if types else "the run has no accepted row"
                raise JobError(_OPTION, name, "no input row has such a column", there)
            shown = name if key in taken else key
            self._inputs[shown] = key
            fields.append(pa.field(shown, types[key], metadata={"description": f"`{key}` of the input row"}))
        self.schema = pa.schema(fields)
        self.read = rows.names if chat else [name for name in rows.names if name in self.schema.names]
        if self._inputs and _INPUTS not in self.read:
            self.read.append(_INPUTS)

    def table(self, rows: pa.RecordBatch, chat: ChatFormat | None) -> pa.Table:
        """Makes the exported rows from rows of the run."""
        inputs = [json.loads(text) for text in rows[_INPUTS].to_pylist()] if self._inputs or chat else []
        pairs = zip(rows.to_pylist(), inputs, strict=True) if chat else ()
        values = [chat.values(row, row_inputs) for row, row_inputs in pairs] if chat else []
        arrays = []
        for field in self.schema:
            if field.name in self._chat:
                arrays.append(pa.array([each[field.name] for each in values], field.type))
            elif field.name in self._inputs:
                arrays.append(_array([each.get(self._inputs[field.name]) for each in inputs], field.type))
            else:
                arrays.append(rows[field.name])
        return pa.table(arrays, schema=self.schema)


def _check_names(names: Sequence[str], rows: pa.Schema) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise JobError(_OPTION, name, "the column is asked for twice", "leave it out once")
        if name not in rows.names and not name.startswith(_PREFIX):
            own = f"a column of your own file is {_PREFIX}NAME; the others are {', '.join(rows.names)}"
            raise JobError(_OPTION, name, "there is no such column", own)


def _input_types(batches: Iterable[pa.RecordBatch]) -> dict[str, pa.DataType]:
    """Finds the type of each column of the input rows; text where its values are of several types, or nested."""
    types: dict[str, pa.DataType] = {}
    inexact: set[str] = set()
    extremes: dict[str, tuple[int, int]] = {}
    for batch in batches:
        columns: dict[str, list[Any]] = {}
        for text in batch[_INPUTS].to_pylist():
            for key, value in json.loads(text).items():
                columns.setdefault(key, []).append(value)
        for key, values in columns.items():
            types[key] = _common_type(types.get(key, pa.null()), _type_of(values))
            if any(map(_is_no_float, values)):
                inexact.add(key)
            extremes[key] = _extremes(values, extremes.get(key, (0, 0)))
    for key, type_ in types.items():
        if (type_ in (pa.float64(), pa.list_(pa.float64())) and key in inexact) or pa.types.is_null(type_):
            types[key] = pa.string()
        elif type_ == pa.list_(pa.null()):
            types[key] = pa.list_(pa.string())
        elif type_ in (pa.int64(), pa.list_(pa.int64())) and extremes[key][1] > _MAX_INT:
            is_unsigned = extremes[key][0] >= 0 and extremes[key][1] <= _MAX_UNSIGNED
            unsigned = pa.uint64() if type_ == pa.int64() else pa.list_(pa.uint64())
            types[key] = unsigned if is_unsigned else pa.string()
    return types


def _is_no_float(value: Any) -> bool:
    """Returns whether a value, or one in a list, would become another one as a float."""
    if isinstance(value, list):
        return any(map(_is_no_float, value))
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) > _MAX_EXACT)


def _extremes(values: list[Any], extremes: tuple[int, int]) -> tuple[int, int]:
    """Returns the smallest and the largest whole number of the values, of lists among them, and of `extremes`."""
    items = chain.from_iterable(value if isinstance(value, list) else (value,) for value in values)
    numbers = [*extremes, *(item for item in items if isinstance(item, int))]
    return min(numbers), max(numbers)


def _type_of(values: list[Any]) -> pa.DataType:
    values = _with_floats(values)
    try:
        try:
            return pa.array(values).type
        except OverflowError:  # Arrow guesses int64 for all whole numbers; the range decides later
            return pa.array(list(map(_without_large, values))).type
    except (pa.ArrowException, OverflowError):
        return pa.string()


def _without_large(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_without_large, value))
    return 0 if isinstance(value, int) and value > _MAX_INT else value


def _common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    try:
        schemas = [pa.schema([pa.field("", type_)]) for type_ in (first, second)]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()
    item = common.value_type if pa.types.is_list(common) else common
    return common if item in _SCALARS or pa.types.is_null(item) else pa.string()


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if type_ == pa.string():
        values = [
            value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in values
        ]
    elif type_ == pa.float64():
        values = _with_floats(values)
    return pa.array(values, type_)


def _with_floats(values: list[Any]) -> list[Any]:
    """Returns the values with NaN and infinity, whose names stand for them in JSON, where all others are numbers."""
    if not any(isinstance(value, float | int) for value in values) or not any(value in _NO_JSON for value in values):
        return values
    if all(value is None or isinstance(value, float | int) or value in _NO_JSON for value in values):
        return [float(value) if isinstance(value, str) else value for value in values]
    return values

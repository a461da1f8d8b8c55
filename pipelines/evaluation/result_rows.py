"""The file of rows beside the figures of a result: each response, pair or question of a model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from schemas.errors import RunError
from schemas.evaluate import result_path
from schemas.text import shorten
from services.storage.filesystem import write_atomic
from services.storage.store import ShardStore, parquet_bytes


def write_rows(
    store: ShardStore, evaluation: str, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema
) -> None:
    """Writes the rows of a model; `record.write_result` comes after it, and says that the result is done."""
    data = parquet_bytes(pa.Table.from_pylist(rows, schema), schema)
    write_atomic(store.fs, store.path(result_path(evaluation, name, "parquet")), data)


@contextmanager
def reading_rows(store: ShardStore, evaluation: str, name: str) -> Iterator[str]:
    """Inside the block the file of a model's rows is read, whose path in the store the block gets.

    Raises:
        RunError: it cannot be read.
    """
    path = result_path(evaluation, name, "parquet")
    try:
        yield path
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        remedy = f"move {result_path(evaluation, name, 'json')} away to have both written again"
        raise RunError(store.path(path), None, f"cannot be read: {shorten(str(error))}", remedy) from None

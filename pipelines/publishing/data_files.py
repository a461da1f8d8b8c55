"""File types of an export: Parquet, JSON Lines and CSV, and the columns as the header of a card describes them."""

import json
from collections.abc import Iterable
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

FILE_TYPES = ("parquet", "jsonl", "csv")


def write_tables(file: IO[bytes], file_type: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Writes tables of one schema into one open file, one table at a time, and returns the number of their rows.

    Args:
        file: the open file.
        file_type: one of FILE_TYPES.
        schema: schema of the tables; of CSV as `csv_schema` gives it.
        tables: the rows.
    """
    rows = 0
    writer: Any = None
    if file_type == "parquet":
        writer = pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)
    elif file_type == "csv":
        writer = pa_csv.CSVWriter(file, csv_schema(schema))
    try:
        for table in tables:
            rows += table.num_rows
            if file_type == "jsonl":
                file.write(_lines(table))
            else:
                writer.write_table(_with_json_lists(table) if file_type == "csv" else table)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _lines(table: pa.Table) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False, default=lambda value: value.isoformat()) for row in table.to_pylist())
    return "".join(f"{line}\n" for line in lines).encode()


def csv_schema(schema: pa.Schema) -> pa.Schema:
    """Returns the schema with text in place of lists: a cell of CSV holds a list as JSON."""
    return pa.schema([field.with_type(pa.string()) if pa.types.is_list(field.type) else field for field in schema])


def _with_json_lists(table: pa.Table) -> pa.Table:
    columns = [
        pa.array([None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()])
        if pa.types.is_list(column.type) else column
        for column in table.columns
    ]  # fmt: skip
    return pa.table(columns, schema=csv_schema(table.schema))


def features_of(schema: pa.Schema) -> list[dict[str, Any]]:
    """Returns the columns as `dataset_info.features` of a card.

    With them `load_dataset` need not guess types from the first rows of a JSONL or CSV file, where a column may be
    empty.
    """
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(type_: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(type_):
        item = type_.value_type
        return {"list": features_of(pa.schema(list(item))) if pa.types.is_struct(item) else _feature(item)["dtype"]}
    return {"dtype": {"double": "float64"}.get(str(type_), str(type_))}

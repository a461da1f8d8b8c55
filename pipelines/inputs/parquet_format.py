"""Parquet: read batch by batch, and only the columns that are needed."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.inputs.class_labels import Names, names_in_metadata
from pipelines.inputs.sources import BATCH_ROWS, MAX_ROW_BYTES, FileSource, InputRow, Skip, decode_batch, skip_items

# Bytes that are read at a time of each column; by default Arrow reads a row group's whole column at once.
_READ_BYTES = 1 << 20


class ParquetSource(FileSource):
    """A Parquet file. Row groups that are skipped are not read."""

    format = "parquet"
    endings = (".parquet", ".pq")
    is_text = False

    def count(self) -> int:
        """Returns the number of rows, from the footer.

        Raises:
            pyarrow.ArrowInvalid: the footer contradicts itself.
        """
        with self.fs.open(self.path, "rb") as file:
            metadata = pq.ParquetFile(file).metadata
        rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        if rows != metadata.num_rows:
            raise pa.ArrowInvalid(f"its footer names {metadata.num_rows} rows, and its row groups hold {rows}")
        return rows

    def columns(self) -> list[str]:
        """Returns the names of the top-level columns."""
        with self.fs.open(self.path, "rb") as file:
            return pq.ParquetFile(file).schema_arrow.names

    def label_names(self, columns: Collection[str]) -> dict[str, Names]:
        """Returns the names of class labels in some columns, from the file's metadata or the dataset card beside it."""
        with self.fs.open(self.path, "rb") as file:
            metadata = pq.ParquetFile(file).schema_arrow.metadata
        return names_in_metadata(metadata, columns) or super().label_names(columns)

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""
        with self.fs.open(self.path, "rb") as file:
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True)
            leaves = [leaf for leaf, name in enumerate(_top_level_names(parquet)) if name in columns]
            for group in range(parquet.num_row_groups):
                metadata = parquet.metadata.row_group(group)
                if skip.rows >= metadata.num_rows:
                    skip.rows -= metadata.num_rows
                    continue
                # A batch of rows as large as a row may be would take gigabytes, so large rows come in smaller batches.
                size = sum(metadata.column(leaf).total_uncompressed_size for leaf in leaves)
                batch_rows = max(min(BATCH_ROWS, MAX_ROW_BYTES * metadata.num_rows // max(size, 1)), 1)
                for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=columns):
                    if skip.rows >= batch.num_rows:
                        skip.rows -= batch.num_rows
                        continue
                    rows = decode_batch(batch.num_rows, batch.to_pylist, partial(_decode_row, batch))
                    yield from skip_items(rows, skip)


def _top_level_names(parquet: pq.ParquetFile) -> Iterator[str]:
    """Yields the top-level column of each physical column: a list or a struct has several physical ones."""
    for leaf in range(parquet.metadata.num_columns):
        yield parquet.schema.column(leaf).path.partition(".")[0]


def _decode_row(batch: pa.RecordBatch, index: int) -> dict[str, Any]:
    return batch.slice(index, 1).to_pylist()[0]

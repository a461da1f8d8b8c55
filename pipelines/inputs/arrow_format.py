"""Arrow: files and streams, as `save_to_disk` of Hugging Face datasets writes them."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import IO, Any

import pyarrow as pa

from pipelines.inputs.class_labels import Names, names_in_metadata
from pipelines.inputs.sources import BATCH_ROWS, FileSource, InputRow, Skip, decode_batch, skip_items

_FILE_MAGIC = b"ARROW1"


class ArrowSource(FileSource):
    """An Arrow file or stream, read batch by batch."""

    format = "arrow"
    endings = (".arrow", ".feather")
    is_text = False
    is_read_from_folders = False  # beside its data, a dataset keeps caches in such files: saved_dataset.py

    def count(self) -> int:
        """Returns the number of rows."""
        with self.open() as file:
            return sum(batch.num_rows for batch in _batches(file))

    def columns(self) -> list[str]:
        """Returns the names of the top-level columns."""
        return self._schema().names

    def label_names(self, columns: Collection[str]) -> dict[str, Names]:
        """Returns the names of class labels in some columns, from the file's metadata or the dataset card beside it."""
        return names_in_metadata(self._schema().metadata, columns) or super().label_names(columns)

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""
        with self.open() as file:
            for batch in _batches(file):
                batch = batch.select([name for name in batch.schema.names if name in columns])
                for low in range(0, batch.num_rows, BATCH_ROWS):
                    piece = batch.slice(low, BATCH_ROWS)
                    if skip.rows >= piece.num_rows:
                        skip.rows -= piece.num_rows
                        continue
                    rows = decode_batch(piece.num_rows, piece.to_pylist, partial(_decode_row, piece))
                    yield from skip_items(rows, skip)

    def _schema(self) -> pa.Schema:
        with self.open() as file:
            return _reader(file).schema


def _reader(file: IO[bytes]) -> Any:
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    return pa.ipc.open_file(file) if magic == _FILE_MAGIC else pa.ipc.open_stream(file)


def _batches(file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    reader = _reader(file)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader


def _decode_row(batch: pa.RecordBatch, index: int) -> dict[str, Any]:
    return batch.slice(index, 1).to_pylist()[0]

"""The formats that input rows come in: Parquet, JSONL, JSON lists, CSV, plain text, Hugging Face datasets.

Each is read once from its beginning to its end, without holding a file in memory (but for a JSON list, whose size is
bounded); rows that are not wanted are passed over unparsed on the way. A row that cannot be read (broken JSON, bytes
that are no UTF-8, a date that no calendar has) is still a row, and carries its fault.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.inputs.lines import MOST_ROW_BYTES, bounded_lines, csv_records
from schemas.errors import JobError
from schemas.job import Input
from schemas.text import shorten
from services.storage.filesystem import is_local

_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_BATCH_ROWS = 256
_HASH_BYTES = 1 << 20
# Lines of a JSONL file, or items of a JSON list, that are looked at to learn which columns there are.
_PROBED_LINES = 100
# Of a JSON list, decompressed: several times Alpaca; as Python objects it takes several times as much.
MOST_LIST_BYTES = 128 << 20
# What is read at a time of each column of a Parquet file; by default Arrow reads a row group's whole column at once.
_PARQUET_READ_BYTES = 1 << 20

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class InputRow:
    """One input row: its columns, or the fault that kept it from being read."""

    values: dict[str, Any] | None
    fault: str = ""


@dataclass(slots=True)
class Skip:
    """How many rows to pass over before the next one is given; whoever reads them counts it down."""

    rows: int = 0


class Source(Protocol):
    """One file or dataset split."""

    name: str

    def count(self) -> int:
        """Rows in it."""
        ...

    def content(self) -> str:
        """What identifies its content."""
        ...

    def columns(self) -> list[str]:
        """Names of its columns."""
        ...

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Its rows, with these columns, but for those that `skip` asks to pass over; it may be raised at any time."""
        ...


@dataclass(frozen=True)
class _File:
    """What the file formats share: a name for people and run.json, and how to open it."""

    name: str
    fs: fsspec.AbstractFileSystem
    path: str

    def content(self) -> str:
        if not is_local(self.fs):
            info = self.fs.info(self.path)
            tag = next((info[key] for key in ("ETag", "etag", "md5Hash", "content_md5", "ino") if info.get(key)), "")
            return f"{info.get('size')}:{tag or self.fs.checksum(self.path)}"
        digest = hashlib.blake2b(digest_size=16)
        with open(self.path, "rb") as file:
            while chunk := file.read(_HASH_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _open(self) -> Any:
        check_compression(self.name, self.path)
        return self.fs.open(self.path, "rb", compression="infer")


class _ParquetSource(_File):
    def count(self) -> int:
        with self.fs.open(self.path, "rb") as file:
            metadata = pq.ParquetFile(file).metadata
        held = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        if held != metadata.num_rows:
            raise pa.ArrowInvalid(f"its footer tells of {metadata.num_rows} rows, and its row groups of {held}")
        return held

    def columns(self) -> list[str]:
        with self.fs.open(self.path, "rb") as file:
            return pq.ParquetFile(file).schema_arrow.names

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        with self.fs.open(self.path, "rb") as file:
            parquet = pq.ParquetFile(
                file, buffer_size=_PARQUET_READ_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            leaves = [i for i, name in enumerate(_leaves(parquet)) if name in columns]
            for group in range(parquet.num_row_groups):
                metadata = parquet.metadata.row_group(group)
                if skip.rows >= metadata.num_rows:
                    skip.rows -= metadata.num_rows
                    continue
                size = sum(metadata.column(i).total_uncompressed_size for i in leaves)
                most = max(min(_BATCH_ROWS, MOST_ROW_BYTES * metadata.num_rows // max(size, 1)), 1)
                for batch in parquet.iter_batches(most, row_groups=[group], columns=columns):
                    if skip.rows >= batch.num_rows:
                        skip.rows -= batch.num_rows
                        continue
                    one = partial(_row_of, batch)
                    yield from _passing_over(_decoded(batch.num_rows, batch.to_pylist, one), skip)


def _leaves(parquet: pq.ParquetFile) -> Iterator[str]:
    """The top-level column of each physical one: a list or a struct has several below it."""
    for i in range(parquet.metadata.num_columns):
        yield parquet.schema.column(i).path.partition(".")[0]


def _row_of(batch: pa.RecordBatch, index: int) -> dict[str, Any]:
    return batch.slice(index, 1).to_pylist()[0]


def _decoded(
    rows: int, every: Callable[[], list[dict[str, Any]]], one: Callable[[int], dict[str, Any]]
) -> Iterator[InputRow]:
    """Rows as Python's values; where they cannot be had at once, one by one, so that a bad cell spoils its own row."""
    try:
        values = every()
    except Exception:  # whatever the type of some cell raises
        return (_decoded_alone(one, index) for index in range(rows))
    return map(InputRow, values)


def _decoded_alone(one: Callable[[int], dict[str, Any]], index: int) -> InputRow:
    try:
        return InputRow(one(index))
    except Exception as error:
        return InputRow(None, f"a cell cannot be decoded: {shorten(str(error)) or type(error).__name__}")


class _TextSource(_File):
    """A row a line; blank lines are not rows."""

    def count(self) -> int:
        return sum(1 for _ in self._lines())

    def columns(self) -> list[str]:
        return ["text"]

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        return map(self._row, _passing_over(self._lines(), skip))

    def _row(self, line: bytes | None) -> InputRow:
        if line is None:
            return InputRow(None, f"the line is longer than {MOST_ROW_BYTES >> 20} MiB")
        return self._parsed(line)

    def _parsed(self, line: bytes) -> InputRow:
        try:
            return InputRow({"text": line.decode("utf-8").rstrip("\r\n")})
        except UnicodeDecodeError as error:
            return InputRow(None, f"the line is not UTF-8 (byte {error.start})")

    def _lines(self) -> Iterator[bytes | None]:
        with self._open() as file:
            for number, line in enumerate(bounded_lines(file)):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 and line else line
                if line is None or line.strip():
                    yield line


class _JsonlSource(_TextSource):
    """A JSON object a line; blank lines are not rows."""

    def columns(self) -> list[str]:
        probed = [self._row(line).values or {} for line in islice(self._lines(), _PROBED_LINES)]
        return list(dict.fromkeys(key for values in probed for key in values))

    def _parsed(self, line: bytes) -> InputRow:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            return InputRow(None, f"the line is not JSON: {error}")
        return _object_row("the line", values)


class _JsonListSource(_File):
    """One JSON list of objects, as Alpaca comes. It has no lines to go by, so it is held whole while it is read."""

    def count(self) -> int:
        return len(self._items())

    def columns(self) -> list[str]:
        probed = (item for item in self._items()[:_PROBED_LINES] if isinstance(item, dict))
        return list(dict.fromkeys(key for item in probed for key in item))

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        return map(partial(_object_row, "the item"), _passing_over(self._items(), skip))

    def _items(self) -> list[Any]:
        with self._open() as file:
            data = file.read(MOST_LIST_BYTES + 1)
        if len(data) > MOST_LIST_BYTES:
            cause = f"a JSON list is read whole, and this one is larger than {MOST_LIST_BYTES >> 20} MiB"
            raise JobError(
                "input.path", self.name, cause, "write it as JSONL, an object a line, which is read row by row"
            )
        text, remedy = (
            data.decode("utf-8-sig"),
            "repair the file; if it has an object a line, set input.format to jsonl",
        )
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise JobError("input.path", self.name, f"not valid JSON: {error}", remedy) from None
        if not isinstance(items, list):
            cause = f"it holds a JSON {type(items).__name__}, not a list of objects"
            raise JobError("input.path", self.name, cause, remedy)
        return items


def _object_row(what: str, values: Any) -> InputRow:
    if not isinstance(values, dict):
        return InputRow(None, f"{what} is a JSON {type(values).__name__}, not an object")
    return InputRow(values)


class _CsvSource(_File):
    """Comma-separated (tabs for .tsv), with a header; every cell is text."""

    def count(self) -> int:
        return sum(1 for _ in islice(self._records(), 1, None))

    def columns(self) -> list[str]:
        header = next(self._records(), [])
        if header is None:
            raise csv.Error("the quotes of its header do not pair")
        return header

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        records = self._records()
        return map(partial(self._row, next(records, [])), _passing_over(records, skip))

    def _row(self, header: list[str], cells: list[str] | None) -> InputRow:
        if cells is None:
            return InputRow(None, "the quotes of the row do not pair")
        if len(cells) != len(header):
            return InputRow(None, f"the row has {len(cells)} cells and the header {len(header)}")
        if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            return InputRow(None, "the row is not UTF-8")
        return InputRow(dict(zip(header, cells, strict=True)))

    def _records(self) -> Iterator[list[str] | None]:
        with self._open() as file:
            yield from csv_records(file, "\t" if suffix_of(self.path) == ".tsv" else ",")


class _DatasetSource:
    """One split of a Hugging Face dataset, by hub id or local folder."""

    def __init__(self, section: Input) -> None:
        import datasets

        self.name = f"{section.dataset}:{section.split}"
        datasets.disable_progress_bars()
        try:
            self._dataset = datasets.load_dataset(
                section.dataset, section.config, split=section.split, revision=section.revision
            )
        except Exception as error:  # the library raises whatever its builders raise
            cause = f"datasets could not load it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            raise JobError(
                "input.dataset",
                section.dataset,
                cause,
                "check id, config, split and revision; private ones need HF_TOKEN",
            ) from None

    def count(self) -> int:
        return self._dataset.num_rows

    def content(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for table in self._dataset.with_format("arrow").iter(_BATCH_ROWS):
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
        return digest.hexdigest()

    def columns(self) -> list[str]:
        return self._dataset.column_names

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        there = [name for name in columns if name in self._dataset.column_names]
        part = self._dataset.select_columns(there) if there else self._dataset
        for low in range(0, part.num_rows, _BATCH_ROWS):
            high = min(low + _BATCH_ROWS, part.num_rows)
            if skip.rows >= high - low:
                skip.rows -= high - low
                continue
            batch = part.select(range(low, high))
            yield from _passing_over(_decoded(batch.num_rows, partial(list, batch), batch.__getitem__), skip)


SOURCE_OF_FORMAT = {
    "parquet": _ParquetSource,
    "jsonl": _JsonlSource,
    "json": _JsonListSource,
    "csv": _CsvSource,
    "text": _TextSource,
}


def dataset_source(section: Input) -> Source:
    """The Hugging Face dataset that a job names.

    Raises:
        JobError: `datasets` cannot load it.
    """
    return _DatasetSource(section)


def _passing_over(items: Iterable[Item], skip: Skip) -> Iterator[Item]:
    for item in items:
        if skip.rows:
            skip.rows -= 1
        else:
            yield item


def check_compression(name: str, path: str) -> None:
    """Refuses a file that nothing here can decompress.

    Raises:
        JobError: its package is missing.
    """
    if path.endswith(".zst") and "zstd" not in fsspec.available_compressions():
        remedy = "install zstandard, or decompress the file"
        raise JobError("input.path", name, "reading .zst files needs the Python package zstandard", remedy)


def is_compressed(path: str) -> bool:
    """Whether its name says so."""
    return path.endswith(_COMPRESSIONS)


def suffix_of(path: str) -> str:
    """The ending that tells a file's format: `.csv` of data/x.csv.gz."""
    for compression in _COMPRESSIONS:
        path = path.removesuffix(compression)
    return os.path.splitext(path)[1].lower()

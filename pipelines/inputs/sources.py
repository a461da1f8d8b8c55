"""Sources of input rows: what a file of any format and a Hugging Face dataset have in common.

Invariant: a source gives the same rows, in the same order, each time that it is read. A row that cannot be read (broken
JSON, bytes that are not UTF-8, a date that no calendar has) is still a row: it keeps its number, and carries its fault.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Protocol, TypeVar

import fsspec

from pipelines.inputs.class_labels import Names, identify_names, name_labels, names_in_card
from pipelines.inputs.compression import check_compression
from pipelines.inputs.encodings import recoded
from schemas.errors import JobError
from schemas.job import Input
from schemas.text import shorten, wide_encoding
from services.storage.filesystem import is_local

MAX_ROW_BYTES = 16 << 20
"""largest row that is read: several times the longest book"""
BATCH_ROWS = 256
"""rows that are decoded at once, where a format comes in batches"""
PROBED_ROWS = 100
"""first rows that are read to learn the columns of a file that has no header"""
NOT_UTF8 = "UTF-8: another encoding is named in input.encoding, such as cp1252"
"""end of the fault of a row that cannot be decoded"""
_HASH_BYTES = 1 << 20
# Object stores name a file's content by one of these; which one depends on the store.
_CONTENT_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "ino")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class InputRow:
    """One input row.

    Attributes:
        values: value by column; None where the row could not be read.
        fault: why the row could not be read; "" where it was.
    """

    values: dict[str, Any] | None
    fault: str = ""


@dataclass(slots=True)
class Skip:
    """Number of rows to skip before the next row is given. The caller raises it, the source counts it down."""

    rows: int = 0


class Source(Protocol):
    """One input file, or one split of a dataset."""

    @property
    def name(self) -> str:
        """Name in messages, in run.json, and in the column `source`."""
        ...

    def count(self) -> int:
        """Returns the number of rows."""
        ...

    def content(self) -> str:
        """Returns a short text that changes whenever the content does: a hash, or an object store's tag."""
        ...

    def columns(self) -> list[str]:
        """Returns the names of the columns."""
        ...

    def has_late_column(self, column: str) -> bool:
        """Returns whether a column that `columns` lacks is in later rows."""
        ...

    def label_names(self, columns: Collection[str]) -> dict[str, Names]:
        """Returns the names of class labels in some columns, by column; see class_labels.py."""
        ...

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows, without those that `skip` counts; class labels are numbers.

        Args:
            columns: columns that the caller needs; a row may have more.
            skip: the caller may raise it between two rows.
        """
        ...


@dataclass(frozen=True)
class FileSource(ABC):
    """One input file. A subclass reads one format, and stands in `pipelines.inputs.formats.FORMATS`.

    A file is read once from its beginning to its end, and never held in memory (but for a JSON list, whose size is
    bounded). Rows that are skipped are not parsed.

    Args:
        name: name in messages, in run.json, and in the column `source`.
        fs: file system that the file is on.
        path: path of the file in that file system.
        encoding: encoding of a text file; None for UTF-8.
    """

    format: ClassVar[str]
    """name of the format, as `input.format` of a job takes it"""
    endings: ClassVar[tuple[str, ...]]
    """endings of file names that mean this format, in lower case"""
    is_read_from_folders: ClassVar[bool] = True
    """whether a folder's files of this format are input; if not, a job has to name each file, or a glob"""
    is_text: ClassVar[bool] = True
    """whether the files are text, which has an encoding"""
    read_errors: ClassVar[tuple[type[Exception], ...]] = ()
    """exceptions that this format alone raises for a damaged file"""

    name: str
    fs: fsspec.AbstractFileSystem
    path: str
    encoding: str | None = None

    @classmethod
    def options(cls, section: Input) -> dict[str, Any]:
        """Returns the arguments of this format that an `input` section names."""
        return {"encoding": section.encoding}

    def content(self) -> str:
        """Returns a hash of the file's bytes; on a remote file system its size and the store's own tag."""
        if not is_local(self.fs):
            info = self.fs.info(self.path)
            tag = next((info[key] for key in _CONTENT_TAGS if info.get(key)), "")
            return f"{info.get('size')}:{tag or self.fs.checksum(self.path)}"
        digest = hashlib.blake2b(digest_size=16)
        with open(self.path, "rb") as file:
            while chunk := file.read(_HASH_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    @abstractmethod
    def count(self) -> int:
        """Returns the number of rows."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Returns the names of the columns."""

    def has_late_column(self, column: str) -> bool:
        """Returns whether a column that `columns` lacks is in later rows."""
        return False

    def label_names(self, columns: Collection[str]) -> dict[str, Names]:
        """Returns the names of class labels in some columns, by column, from the dataset card beside the file."""
        return names_in_card(self.fs, self.path, columns)

    @abstractmethod
    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""

    def open(self) -> IO[bytes]:
        """Opens the file for reading, decompressed; a text in UTF-8."""
        check_compression(self.name, self.path)
        file = self.fs.open(self.path, "rb", compression="infer")
        return recoded(file, self.encoding) if self.encoding else file


def refuse_wide_text(key: str, name: str, head: bytes) -> None:
    """Refuses a file in UTF-16 or UTF-32, such as PowerShell's `>` writes: read as UTF-8, its rows would be wrong.

    Args:
        key: job key that names the file.
        name: the file's name.
        head: first bytes of the file, at least four if it has as many.

    Raises:
        JobError: the file begins as a text in UTF-16 or UTF-32 does.
    """
    if encoding := wide_encoding(head):
        remedy = f"name it, `input: {{encoding: {encoding}}}`; or convert it: iconv -f {encoding} -t UTF-8 OLD > NEW"
        raise JobError(key, name, f"it is {encoding} text, or none; text is read as UTF-8", remedy)


def rows_with_names(source: Source, columns: list[str], skip: Skip, names: dict[str, Names]) -> Iterator[InputRow]:
    """Yields the rows of a source (see `Source.rows`), with the names of class labels in place of their numbers."""
    rows = source.rows(columns, skip)
    return (_named_row(names, row) for row in rows) if names else rows


def identify_content(source: Source, names: dict[str, Names]) -> str:
    """Returns a short text that changes whenever the content of a source does, or the names of its class labels."""
    return f"{source.content()}, labels {identify_names(names)}" if names else source.content()


def _named_row(names: dict[str, Names], row: InputRow) -> InputRow:
    try:
        return InputRow(name_labels(names, row.values), row.fault)
    except RecursionError:
        return InputRow(None, "a label is nested too deeply")


def skip_items(items: Iterable[Item], skip: Skip) -> Iterator[Item]:
    """Yields the items, without those that `skip` counts."""
    for item in items:
        if skip.rows:
            skip.rows -= 1
        else:
            yield item


def object_row(subject: str, value: Any) -> InputRow:
    """Returns the row of one parsed JSON value: a fault, unless the value is an object.

    Args:
        subject: noun for the fault: "the line", "the item".
        value: parsed JSON.
    """
    if not isinstance(value, dict):
        return InputRow(None, f"{subject} is a JSON {type(value).__name__}, not an object")
    return InputRow(value)


def decode_batch(
    rows: int, decode_all: Callable[[], list[dict[str, Any]]], decode_one: Callable[[int], dict[str, Any]]
) -> Iterator[InputRow]:
    """Yields the rows of an Arrow batch as Python values.

    A batch is decoded at once. Where that fails, it is decoded row by row, so that a bad cell spoils its own row only.

    Args:
        rows: number of rows in the batch.
        decode_all: returns the values of all rows.
        decode_one: returns the values of one row, by its number in the batch.
    """
    try:
        batch = decode_all()
    except Exception:  # each type of cell raises its own
        return (_decode_row(decode_one, index) for index in range(rows))
    return map(InputRow, batch)


def _decode_row(decode_one: Callable[[int], dict[str, Any]], index: int) -> InputRow:
    try:
        return InputRow(decode_one(index))
    except Exception as error:
        return InputRow(None, f"a cell cannot be decoded: {shorten(str(error)) or type(error).__name__}")

"""Texts with their emotions, from files in GoEmotions' format or any table, split into train, dev and test."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pipelines.inputs.cells import labels_cell, text_cell
from pipelines.inputs.csv_records import Dialect, csv_records
from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.reader import InputReader
from pipelines.inputs.sources import identify_content
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.job import Input
from schemas.rows import RowError
from schemas.text import shorten
from schemas.train import LabelledTexts
from trainers.emotion_classifier import DatasetSplits, LabelledDataset

_KEY = "stages.0.data"
_FIELDS = ["text", "emotions"]
_LABEL_NUMBERS = {emotion: number for number, emotion in enumerate(EMOTIONS)}
_HASH_BYTES = 8

# A text, and the numbers of its labels in EMOTIONS.
_LabelledText = tuple[str, list[int]]


@contextmanager
def _errors_under(key: str) -> Iterator[None]:
    """Inside the block, errors of reading a table name the job key of this job that names the table."""
    try:
        yield
    except JobError as error:
        remedy = "name a table with a text and its emotions, or map `columns`"
        is_of_columns = error.key.startswith("input.columns")
        raise JobError(key, error.value, error.cause, remedy if is_of_columns else error.remedy) from None


def read_splits(section: LabelledTexts) -> DatasetSplits:
    """Reads all labelled texts of a stage.

    Where `dev` or `test` is a share of `train`, a hash of each text decides where it goes: equal texts stay together,
    and a file that grows keeps its split.

    Raises:
        JobError: a file is missing or cannot be read, a row of it is not a text with known emotions, or nothing is left
            for one of the three parts.
    """
    parts: dict[str, list[_LabelledText]] = {"train": [], "dev": [], "test": []}
    shares = {name: share for name in ("dev", "test") if isinstance(share := getattr(section, name), float)}
    if sum(shares.values()) >= 1:
        raise JobError(_KEY, shares, "nothing would be left to train on", "give smaller shares")
    for row in _rows(f"{_KEY}.train", section, section.train):
        parts[_part(row[0], shares)].append(row)
    for name in parts.keys() - shares.keys() - {"train"}:
        parts[name] += _rows(f"{_KEY}.{name}", section, getattr(section, name))
    for name, rows in parts.items():
        if not rows:
            raise JobError(f"{_KEY}.{name}", getattr(section, name), "there are no texts for it", "give more data")
    return DatasetSplits(**{name: _dataset(rows) for name, rows in parts.items()})


def content_of(section: LabelledTexts) -> dict[str, str]:
    """Returns what identifies the content of each file of a stage: name -> hash or etag."""
    content = {}
    columns = [section.columns.get(field, field) for field in _FIELDS]
    for name in ("train", "dev", "test"):
        if isinstance(path := getattr(section, name), str):
            with _errors_under(f"{_KEY}.{name}"):
                for file in input_files(Input(path=path)):
                    try:
                        content[file.name] = identify_content(file, file.label_names(columns))
                    except READ_ERRORS as error:
                        cause = f"cannot be read: {shorten(str(error))}"
                        raise JobError("input.path", file.name, cause, "repair the file, or name another") from None
    return content


def _part(text: str, shares: dict[str, float]) -> str:
    """Returns the part that a text belongs to, by its hash; case and spaces do not count.

    Args:
        text: the text.
        shares: share of each part but `train`.
    """
    folded = " ".join(text.casefold().split()).encode()
    number = int.from_bytes(hashlib.blake2b(folded, digest_size=_HASH_BYTES).digest(), "big")
    position = number / (1 << 8 * _HASH_BYTES)  # in [0, 1)
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    return "train"


def _dataset(rows: list[_LabelledText]) -> LabelledDataset:
    targets = np.zeros((len(rows), len(EMOTIONS)), dtype=np.float32)
    for number, (_, labels) in enumerate(rows):
        targets[number, labels] = 1
    return LabelledDataset([text for text, _ in rows], targets)


def _rows(key: str, section: LabelledTexts, path: str) -> Iterator[_LabelledText]:
    if path.endswith(".tsv"):
        return _goemotions(key, section, path)
    return _table(key, section, path)


def _goemotions(key: str, section: LabelledTexts, path: str) -> Iterator[_LabelledText]:
    """Yields the rows of a file in GoEmotions' format: lines of text, tab, label numbers, tab, anything.

    A file that begins with the names of its columns is a table.
    """
    columns = {section.columns.get(field, field) for field in _FIELDS}
    dialect = Dialect(section.delimiter or "\t", section.quotes, has_header=False)
    with _errors_under(key):
        files = input_files(Input(path=path))
    for file in files:
        try:
            for number, cells in enumerate(csv_records(file.name, file.open, dialect), 1):
                if number == 1 and columns <= {*(cells or [])}:
                    yield from _table(key, section, file.name)
                    break
                yield _goemotions_row(key, f"{file.name}, row {number}", cells or [])
        except READ_ERRORS as error:
            remedy = "name a file in GoEmotions' format"
            raise JobError(key, file.name, f"cannot be read: {shorten(str(error))}", remedy) from None


def _goemotions_row(key: str, place: str, cells: list[str]) -> _LabelledText:
    try:
        text, numbers, *_ = cells
        labels = [int(number) for number in numbers.split(",")]
        if not all(0 <= label < len(EMOTIONS) for label in labels):
            raise ValueError
        return text_cell({"text": text}, "text"), labels
    except (ValueError, RowError):
        cause = f"not a text, a tab, and label numbers from 0 to {len(EMOTIONS) - 1}"
        raise JobError(key, place, cause, "name a file in GoEmotions' format, without a header") from None


def _table(key: str, section: LabelledTexts, path: str) -> Iterator[_LabelledText]:
    """Yields the rows of a table with a text and the names of its emotions."""
    dialect = {"delimiter": section.delimiter, "quotes": section.quotes}
    with _errors_under(key):
        reader = InputReader(Input(path=path, columns=section.columns, **dialect), _FIELDS)
    for source, index, row in reader.all_rows():
        try:
            if row.values is None:
                raise RowError(row.fault)
            labels = labels_cell(row.values, "emotions")
            yield text_cell(row.values, "text"), [_LABEL_NUMBERS[label] for label in labels]
        except RowError as error:
            remedy = f"correct the row, or leave it out; the labels are {', '.join(EMOTIONS)}"
            raise JobError(key, f"{source}, row {index}", str(error), remedy) from None

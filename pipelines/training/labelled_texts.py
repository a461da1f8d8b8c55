"""Texts with their emotions, out of GoEmotions' own files or any table, and their split into train, dev and test."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pipelines.inputs.cells import labels_cell, text_cell
from pipelines.inputs.files import input_files
from pipelines.inputs.lines import bounded_lines
from pipelines.inputs.reader import InputReader
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.job import Input
from schemas.rows import RowError
from schemas.train import LabelledTexts
from services.storage.filesystem import resolve
from trainers.emotion_classifier import DatasetSplits, LabelledDataset

_KEY = "stages.0.data"
_FIELDS = ["text", "emotions"]
_NUMBER = {emotion: number for number, emotion in enumerate(EMOTIONS)}
_HASH_BYTES = 8

Row = tuple[str, list[int]]


@contextmanager
def _told_of(key: str) -> Iterator[None]:
    """What is wrong with a file, under the key that names it here."""
    try:
        yield
    except JobError as error:
        raise JobError(
            key, error.value, error.cause, "name a table with a text and its emotions, or map `columns`"
        ) from None


def read_splits(section: LabelledTexts) -> DatasetSplits:
    """All labelled texts of a stage.

    Shares of `train` are drawn by each text's hash, so that equal texts stay together and a grown file keeps its split.

    Raises:
        JobError: a file is not there, or a row of it is no text with known emotions.
    """
    parts: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    shares = {name: share for name in ("dev", "test") if isinstance(share := getattr(section, name), float)}
    if sum(shares.values()) >= 1:
        raise JobError(_KEY, shares, "nothing would be left to train on", "give smaller shares")
    for row in _rows(f"{_KEY}.train", section.train, section.columns):
        parts[_part(row[0], shares)].append(row)
    for name in parts.keys() - shares.keys() - {"train"}:
        parts[name] += _rows(f"{_KEY}.{name}", getattr(section, name), section.columns)
    for name, rows in parts.items():
        if not rows:
            raise JobError(f"{_KEY}.{name}", getattr(section, name), "there are no texts for it", "give more data")
    return DatasetSplits(**{name: _labelled(rows) for name, rows in parts.items()})


def content_of(section: LabelledTexts) -> dict[str, str]:
    """What identifies the content of each file of a stage."""
    found = {}
    for name in ("train", "dev", "test"):
        if isinstance(path := getattr(section, name), str):
            with _told_of(f"{_KEY}.{name}"):
                for file in input_files(Input(path=path)):
                    found[file.name] = file.content()
    return found


def _part(text: str, shares: dict[str, float]) -> str:
    folded = " ".join(text.casefold().split()).encode()
    at = int.from_bytes(hashlib.blake2b(folded, digest_size=_HASH_BYTES).digest(), "big")
    at /= 1 << 8 * _HASH_BYTES
    for name, share in shares.items():
        if at < share:
            return name
        at -= share
    return "train"


def _labelled(rows: list[Row]) -> LabelledDataset:
    targets = np.zeros((len(rows), len(EMOTIONS)), dtype=np.float32)
    for number, (_, labels) in enumerate(rows):
        targets[number, labels] = 1
    return LabelledDataset([text for text, _ in rows], targets)


def _rows(key: str, path: str, columns: dict[str, str]) -> Iterator[Row]:
    if path.endswith(".tsv"):
        return _goemotions(key, path)
    return _table(key, Input(path=path, columns=columns))


def _goemotions(key: str, path: str) -> Iterator[Row]:
    fs, at = resolve(path, key)
    try:
        with fs.open(at, "rb") as file:
            for number, line in enumerate(bounded_lines(file), 1):
                if line is None or line.strip():
                    yield _goemotions_row(key, f"{path}, line {number}", line or b"")
    except OSError as error:
        remedy = "name a file in GoEmotions' format"
        raise JobError(key, path, f"cannot be read: {error.strerror or error}", remedy) from None


def _goemotions_row(key: str, where: str, line: bytes) -> Row:
    try:
        text, numbers, *_ = line.decode().rstrip("\r\n").split("\t")
        labels = [int(number) for number in numbers.split(",")]
        if not text.strip() or not all(0 <= label < len(EMOTIONS) for label in labels):
            raise ValueError
    except ValueError:
        cause = f"not a text, a tab, and label numbers from 0 to {len(EMOTIONS) - 1}"
        raise JobError(key, where, cause, "name a file in GoEmotions' format, without a header") from None
    return text, labels


def _table(key: str, section: Input) -> Iterator[Row]:
    with _told_of(key):
        reader = InputReader(section, _FIELDS)
    for source, index, row in reader.all_rows():
        try:
            if row.values is None:
                raise RowError(row.fault)
            labels = labels_cell(row.values, "emotions")
            yield text_cell(row.values, "text"), [_NUMBER[label] for label in labels]
        except RowError as error:
            raise JobError(key, f"{source}, row {index}", str(error), "mend the row, or leave it out") from None

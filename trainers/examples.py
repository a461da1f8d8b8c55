"""From texts to examples of token ids, in Arrow files that are mapped into memory: a corpus may be larger than that.

The length of a file is known and any example of it found at once, so epochs are exact and a resume reads nothing twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from schemas.errors import EngineError
from services.control import control_tokens, without_control
from trainers.causal_model import begins_with_bos

IGNORED = -100  # the label of a token that the loss is not of
SPLITS = ("train", "dev")
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema([("input_ids", _IDS), ("labels", _IDS), ("row", pa.int64())])
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Row:
    """What an example is made of.

    Attributes:
        text: a document, or a completion.
        prompt: what the completion answers; None for a document.
        row: number of the input row; examples of one are no independent witnesses.
        dev: whether it is held out.
    """

    text: str
    prompt: str | None = None
    row: int = 0
    dev: bool = False


Ids = tuple[list[int], list[int]]


class Encoder:
    """Makes examples of rows, and counts what did not fit.

    No text becomes a control token of the model (see services/control.py).

    Args:
        tokenizer: of transformers, with an end-of-text token and, for prompts, a chat template.
        max_length: tokens of an example.
        too_long: what becomes of a longer one; None leaves documents as they are, to be packed.

    Attributes:
        counts: documents and rows that were truncated, split or dropped.
    """

    def __init__(self, tokenizer: Any, max_length: int, too_long: str | None) -> None:
        self._tokenizer, self._most, self._too_long = tokenizer, max_length, too_long
        self._control = control_tokens(tokenizer)
        self._begin = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
        self.counts: Counter[str] = Counter()

    def examples(self, rows: list[Row]) -> Iterator[tuple[Row, Ids]]:
        """The examples of some rows, in their order; a row may have several, or none."""
        texts = [self._parts(row) for row in rows]
        encoded = iter(self._ids([text for pair in texts for text in pair]))
        for row, pair in zip(rows, texts, strict=True):
            *heads, tail = islice(encoded, len(pair))
            for ids in self._fitted(heads[0], tail) if heads else self._document(tail):
                yield row, ids

    def _parts(self, row: Row) -> tuple[str, ...]:
        """A document; or a prompt in the chat template, and the completion as it goes on there."""
        text = without_control(row.text, self._control)
        if row.prompt is None:
            return (text,)
        turns = [{"role": "user", "content": without_control(row.prompt, self._control)}]
        head = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        turns.append({"role": "assistant", "content": text})
        whole = self._tokenizer.apply_chat_template(turns, tokenize=False)
        if not whole.startswith(head):
            cause = "its chat template does not lay an answer right behind the prompt"
            raise EngineError("model.id", self._tokenizer.name_or_path, cause, "give its tokenizer another template")
        tail = whole[len(head) :].rstrip("\n")  # what stands between turns is not the model's to write
        return head, tail if tail.endswith(self._control) else tail + self._tokenizer.eos_token

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _document(self, ids: list[int]) -> Iterator[Ids]:
        ids = [*self._begin, *ids, self._tokenizer.eos_token_id]
        if self._too_long is None or len(ids) <= self._most:
            yield ids, ids
            return
        self.counts[_TOLD[self._too_long]] += 1
        if self._too_long == "split":
            yield from ((part, part) for part in _cut(ids, self._most) if len(part) > 1)  # one alone has no next
        elif self._too_long == "truncate":
            yield ids[: self._most], ids[: self._most]

    def _fitted(self, head: list[int], tail: list[int]) -> Iterator[Ids]:
        ids, labels = head + tail, [IGNORED] * len(head) + tail
        if len(ids) > self._most:
            if len(head) >= self._most or self._too_long == "drop":
                self.counts["dropped"] += 1
                return
            self.counts["truncated"] += 1
        yield ids[: self._most], labels[: self._most]


_TOLD = {"split": "split", "truncate": "truncated", "drop": "dropped"}


def write_examples(rows: Iterable[Row], encoder: Encoder, folder: Path) -> None:
    """Writes `train.arrow` and `dev.arrow`, each in the order of the rows."""
    rows = iter(rows)
    with _Writer(folder / "train.arrow") as train, _Writer(folder / "dev.arrow") as dev:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            for row, ids in encoder.examples(some):
                (dev if row.dev else train).add(ids, row.row)


def pack(source: Path, destination: Path, max_length: int, seed: int) -> None:
    """Documents in a seeded order, end to end, cut into examples of `max_length`; the last one may be shorter."""
    documents = read_examples(source)
    pending: list[int] = []
    numbers = count()  # a block is of several rows
    with _Writer(destination) as blocks:
        for number in np.random.default_rng(seed).permutation(len(documents)):
            pending += documents[int(number)]["input_ids"]
            *whole, pending = _cut(pending, max_length) or [[]]
            for block in whole:
                blocks.add((block, block), next(numbers))
        if len(pending) > 1:  # a token alone has no next one
            blocks.add((pending, pending), next(numbers))


def read_examples(path: Path) -> Dataset:
    """A file of examples, mapped into memory: `input_ids` and `labels`, and the `row` that they are of."""
    return Dataset.from_file(str(path))


def lengths_of(examples: Dataset) -> np.ndarray:
    """Tokens of each example."""
    chunks = [column.value_lengths().to_numpy() for column in examples.data.column("input_ids").chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int32)


def _cut(ids: list[int], most: int) -> list[list[int]]:
    return [ids[at : at + most] for at in range(0, len(ids), most)]


class _Writer:
    def __init__(self, path: Path) -> None:
        self._stream = pa.ipc.new_stream(str(path), _SCHEMA)
        self._pending: list[tuple[list[int], list[int], int]] = []

    def add(self, ids: Ids, row: int) -> None:
        self._pending.append((*ids, row))
        if len(self._pending) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns = [
            pa.array(values, type=field.type)
            for values, field in zip(zip(*self._pending, strict=True), _SCHEMA, strict=True)
        ]
        self._stream.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._pending = []

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pending and error is None:
            self._flush()
        self._stream.close()

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
from jinja2 import TemplateError

from schemas.errors import EngineError
from services.engines.control_tokens import control_tokens, without_control
from trainers.initial_model import begins_with_bos

IGNORED = -100  # the label of a token that the loss is not of
SPLITS = ("train", "dev")
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema([("input_ids", _IDS), ("labels", _IDS), ("row", pa.int64())])
_ROWS_AT_ONCE = 256


Message = dict[str, str]
"""`{"role", "content"}`: the role is system, user, assistant or tool"""


@dataclass(frozen=True, slots=True)
class Row:
    """What an example is made of.

    Attributes:
        text: a document, or a completion: what the assistant says last.
        prompt: what the completion answers, a text or a conversation; None for a document.
        row: number of the input row; examples of one are no independent witnesses.
        dev: whether it is held out.
    """

    text: str
    prompt: str | list[Message] | None = None
    row: int = 0
    dev: bool = False


Ids = tuple[list[int], list[int]]


class Encoder:
    """Makes examples of rows, and counts what did not fit.

    No text becomes a control token of the model (see services/engines/control_tokens.py).

    Args:
        tokenizer: of transformers, with an end-of-text token and, for prompts, a chat template.
        max_length: tokens of an example.
        too_long: what becomes of a longer one; None leaves documents as they are, to be packed.

    Attributes:
        counts: documents and rows that were truncated, split or dropped, or that the chat template refused.
    """

    def __init__(self, tokenizer: Any, max_length: int, too_long: str | None) -> None:
        self._tokenizer, self._most, self._too_long = tokenizer, max_length, too_long
        self._control = control_tokens(tokenizer)
        self._begin = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
        self.counts: Counter[str] = Counter()

    def examples(self, rows: list[Row]) -> Iterator[tuple[Row, Ids]]:
        """The examples of some rows, in their order; a row may have several, or none."""
        texts = [(row, parts) for row in rows for parts in self._parts(row)]
        encoded = iter(self._ids([text for _, parts in texts for text in parts]))
        for row, parts in texts:
            ids = list(islice(encoded, len(parts)))
            for example in self._document(*ids) if row.prompt is None else self._fitted(ids):
                yield row, example

    def _parts(self, row: Row) -> Iterator[list[str]]:
        """A document; or, by turns, what the assistant is given and what it says, as the chat template has it.

        A conversation is one example, as far as the template leaves what was said as it was when it was said. Where it
        does not (some drop earlier thoughts), or marks no end of a turn, the next answer begins another example.
        """
        if row.prompt is None:
            yield [without_control(row.text, self._control)]
            return
        before = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
        turns = [{**turn, "content": without_control(turn["content"], self._control)} for turn in before]
        turns.append({"role": "assistant", "content": without_control(row.text, self._control)})
        try:
            answers = [self._rendered(turns, at) for at, turn in enumerate(turns) if turn["role"] == "assistant"]
        except TemplateError:
            self.counts["refused by the chat template"] += 1
            return
        parts, said = [], ""
        for head, tail in answers:
            if parts and not (head.startswith(said) and parts[-1].endswith(self._control)):
                yield self._ended(parts)
                parts, said = [], ""
            parts += [head[len(said) :], tail]
            said = head + tail
        yield self._ended(parts)

    def _rendered(self, turns: list[Message], at: int) -> tuple[str, str]:
        """What stands before the assistant's turn `at`, and that turn."""
        head = self._tokenizer.apply_chat_template(turns[:at], tokenize=False, add_generation_prompt=True)
        whole = self._tokenizer.apply_chat_template(turns[: at + 1], tokenize=False)
        if not whole.startswith(head):
            cause = "its chat template does not lay an answer right behind the prompt"
            raise EngineError("model.id", self._tokenizer.name_or_path, cause, "give its tokenizer another template")
        return head, whole[len(head) :].rstrip("\n")  # what stands between turns is not the model's to write

    def _ended(self, parts: list[str]) -> list[str]:
        *others, last = parts
        return [*others, last if last.endswith(self._control) else last + self._tokenizer.eos_token]

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

    def _fitted(self, parts: list[list[int]]) -> Iterator[Ids]:
        """An example of what the assistant is given and what it says, by turns: the loss is of what it says."""
        ids = [token for part in parts for token in part]
        labels = [token if n % 2 else IGNORED for n, part in enumerate(parts) for token in part]
        if len(ids) > self._most:
            if len(parts[0]) >= self._most or self._too_long == "drop":
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

"""Turns texts into training examples of token ids, in Arrow files.

The files are mapped into memory, so a corpus may be larger than memory. Each example has a number and is found by it:
so an epoch reads every example once, and a resumed training reads nothing twice.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from jinja2 import TemplateError

from schemas.errors import EngineError
from schemas.text import shorten
from services.engines.control_tokens import break_nested_control_tokens, find_control_tokens
from services.models.chat_templates import ChatTemplateError, bound_chat_templates
from trainers.initial_model import begins_with_bos
from trainers.rows import Message, TrainingRow, missing_tools, turns_of

IGNORED_LABEL = -100
"""label of a token that the loss leaves out, as in transformers"""
SPLITS = ("train", "dev")
"""names of the example files: those that are trained on, and held-out ones"""
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema([("input_ids", _IDS), ("labels", _IDS), ("row", pa.int64())])
_ROWS_AT_ONCE = 256


Example = tuple[list[int], list[int]]
"""token ids, and the label of each token: its id, or IGNORED_LABEL"""


class ExampleEncoder:
    """Makes examples of rows, and counts rows that did not fit.

    No text of a row becomes a control token of the model (see services/engines/control_tokens.py).

    Args:
        tokenizer: tokenizer of transformers, with an end-of-text token and, for prompts, a chat template.
        max_length: maximum number of tokens in an example.
        too_long: treatment of longer examples: `split` (documents only), `truncate` or `drop`. None leaves documents as
            long as they are, for `pack_documents`.

    Attributes:
        counts: number of documents and rows that were truncated, split or dropped, that the chat template refused, and
            so on.
        firsts: by name of a count, the first row that it counts, with the cause; some counts have none.
    """

    def __init__(self, tokenizer: Any, max_length: int, too_long: str | None) -> None:
        bound_chat_templates()
        self._tokenizer, self._max_length, self._too_long = tokenizer, max_length, too_long
        self._control_tokens = find_control_tokens(tokenizer)
        self._prefix = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
        # What marks the border of two documents in a file of plain text. A beginning-of-text token does not: `<s>` is
        # HTML too.
        borders = {tokenizer.eos_token, *({"<|endoftext|>"} & set(self._control_tokens))}
        self._border = re.compile("|".join(map(re.escape, sorted(borders))))
        self.counts: Counter[str] = Counter()
        self.firsts: dict[str, str] = {}

    def examples(self, rows: list[TrainingRow]) -> Iterator[tuple[TrainingRow, Example]]:
        """Yields the examples of some rows, in their order; a row may have several, or none."""
        texts = [(row, parts) for row in rows for parts in self._texts(row)]
        # One call for all texts: fast tokenizers work on them in parallel.
        encoded = iter(self._token_ids([text for _, parts in texts for text in parts]))
        for row, parts in texts:
            ids = list(islice(encoded, len(parts)))
            for example in self._document_examples(*ids) if row.prompt is None else self._turns_example(ids):
                yield row, example

    def _texts(self, row: TrainingRow) -> Iterator[list[str]]:
        """Yields the texts of each example of a row, as the chat template renders them.

        A document is one text, or several where it has borders. Texts of a conversation alternate: one that the
        assistant is given, one that it writes.

        A conversation is one example as long as a later rendering begins with the earlier one. The next turn of the
        assistant begins another example where the template changes earlier turns (some drop earlier thoughts), or marks
        no end of a turn.

        Raises:
            EngineError: the chat template does too much work.
        """
        if row.prompt is None:
            documents = [text for text in self._border.split(row.text) if text.strip()]
            if documents != [row.text]:
                self._count("divided at end-of-text tokens", row)
            for text in documents:
                yield [self._plain(text, row)]
            return
        turns, tools = self._plain(turns_of(row, self._tokenizer.eos_token), row), self._plain(row.tools, row)
        try:
            rendered = [
                self._render(turns, number, tools) for number, turn in enumerate(turns) if turn["role"] == "assistant"
            ]
        except ChatTemplateError as error:
            remedy = "give its tokenizer another template"
            raise EngineError("model.id", self._tokenizer.name_or_path, str(error), remedy) from None
        except (TemplateError, TypeError) as error:
            self._count("refused by the chat template", row, str(error))
            return
        if missing := missing_tools(turns, tools, rendered):
            self._count("left out for tools that the chat template does not show", row, missing)
            return
        parts: list[str] = []
        so_far = ""
        for head, completion in rendered:
            if parts and not (head.startswith(so_far) and parts[-1].endswith(self._control_tokens)):
                yield self._with_end(parts)
                parts, so_far = [], ""
            parts += [head[len(so_far) :], completion]
            so_far = head + completion
        yield self._with_end(parts)

    def _plain(self, value: Any, row: TrainingRow) -> Any:
        """Returns a text, or a JSON value, in which no control token is left; counts the row where there was one."""
        plain = break_nested_control_tokens(value, self._control_tokens)
        if plain != value:
            self._count("cleared of control tokens", row)
        return plain

    def _count(self, name: str, row: TrainingRow, cause: str = "") -> None:
        self.counts[name] += 1
        self.firsts.setdefault(name, shorten(f"{row.place}: {cause}" if cause else row.place))

    def _render(self, turns: list[Message], number: int, tools: Any) -> tuple[str, str]:
        """Renders a conversation up to an assistant's turn: the text before that turn, and the turn.

        Raises:
            EngineError: the chat template puts something between the prompt and the assistant's text.
        """
        options = {"tokenize": False, **({"tools": tools} if tools else {})}
        head = self._tokenizer.apply_chat_template(turns[:number], add_generation_prompt=True, **options)
        text = self._tokenizer.apply_chat_template(turns[: number + 1], **options)
        if not text.startswith(head):
            cause = "its chat template does not put the assistant's text right after the prompt"
            raise EngineError("model.id", self._tokenizer.name_or_path, cause, "give its tokenizer another template")
        # Line ends between turns come from the template, and the model need not learn them; those of the text stay.
        turn, content = text[len(head) :], turns[number]["content"] or ""
        own = len(content) if turn.startswith(content) else 0
        return head, turn[:own] + turn[own:].rstrip("\n")

    def _with_end(self, parts: list[str]) -> list[str]:
        """Adds the end-of-text token, unless the template ends the last turn with a control token of its own."""
        *others, last = parts
        return [*others, last if last.endswith(self._control_tokens) else last + self._tokenizer.eos_token]

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _document_examples(self, ids: list[int]) -> Iterator[Example]:
        """Yields the examples of a document: one, several where it is split, or none where it is dropped."""
        ids = [*self._prefix, *ids, self._tokenizer.eos_token_id]
        if self._too_long is None or len(ids) <= self._max_length:
            yield ids, ids
            return
        self.counts[_COUNT_NAMES[self._too_long]] += 1
        if self._too_long == "split":
            # A single token has no next token to learn.
            yield from ((part, part) for part in _cut(ids, self._max_length) if len(part) > 1)
        elif self._too_long == "truncate":
            yield ids[: self._max_length], ids[: self._max_length]

    def _turns_example(self, parts: list[list[int]]) -> Iterator[Example]:
        """Yields the example of a conversation, or none where it does not fit.

        Args:
            parts: token ids by turns: a part that the assistant is given, a part that it writes, and so on. Only the
                latter have labels.
        """
        ids = [token for part in parts for token in part]
        labels = [token if number % 2 else IGNORED_LABEL for number, part in enumerate(parts) for token in part]
        if len(ids) > self._max_length:
            if len(parts[0]) >= self._max_length or self._too_long == "drop":
                self.counts["dropped"] += 1
                return
            self.counts["truncated"] += 1
        yield ids[: self._max_length], labels[: self._max_length]


_COUNT_NAMES = {"split": "split", "truncate": "truncated", "drop": "dropped"}


def write_examples(rows: Iterable[TrainingRow], encoder: ExampleEncoder, folder: Path) -> None:
    """Writes the examples of rows to `train.arrow` and `dev.arrow` (held-out ones), each in the order of the rows."""
    rows = iter(rows)
    with _Writer(folder / "train.arrow") as train, _Writer(folder / "dev.arrow") as held_out:
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            for row, example in encoder.examples(chunk):
                (held_out if row.is_held_out else train).add(example, row.input_row)


def pack_documents(source: Path, destination: Path, max_length: int, seed: int) -> None:
    """Joins documents end to end, in a seeded order, and cuts them into examples of `max_length` tokens.

    Only the last example may be shorter.

    Args:
        source: file of examples, one for each document.
        destination: file to write.
        max_length: tokens of an example.
        seed: seed of the order.
    """
    documents = read_examples(source)
    pending: list[int] = []
    numbers = count()  # an example has tokens of several input rows, so it gets a number of its own
    with _Writer(destination) as examples:
        for number in np.random.default_rng(seed).permutation(len(documents)):
            pending += documents[int(number)]["input_ids"]
            *full_blocks, pending = _cut(pending, max_length) or [[]]
            for block in full_blocks:
                examples.add((block, block), next(numbers))
        if len(pending) > 1:  # a single token has no next token to learn
            examples.add((pending, pending), next(numbers))


def read_examples(path: Path) -> Dataset:
    """Maps a file of examples into memory: columns `input_ids`, `labels`, and `row`, the number of the input row."""
    return Dataset.from_file(str(path))


def lengths_of(examples: Dataset) -> np.ndarray:
    """Returns the number of tokens in each example, shape (examples,)."""
    chunks = [column.value_lengths().to_numpy() for column in examples.data.column("input_ids").chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int32)


def _cut(ids: list[int], max_length: int) -> list[list[int]]:
    return [ids[start : start + max_length] for start in range(0, len(ids), max_length)]


class _Writer:
    """Writes examples to an Arrow stream file, some at a time. An error in its block loses those not written yet."""

    def __init__(self, path: Path) -> None:
        self._stream = pa.ipc.new_stream(str(path), _SCHEMA)
        self._pending: list[tuple[list[int], list[int], int]] = []

    def add(self, example: Example, input_row: int) -> None:
        self._pending.append((*example, input_row))
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

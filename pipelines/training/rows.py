"""The rows that a language model is trained on: documents, or prompts and completions, each in train or held out.

Which it is, a hash of its input row says. So a corpus that is resumed, grows or lies in other shards keeps its split,
and what was written for one input row by several prompts or samples stays together.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from pipelines.corpora.documents import RunDocuments, documents_of
from pipelines.corpora.word_budget import Choice, Survey, survey, words_asked
from pipelines.inputs.cells import messages_cell, text_cell, text_or_blank_cell
from pipelines.inputs.reader import InputReader
from schemas.compose import ComposeJob, ComposeOutput, Part
from schemas.errors import JobError
from schemas.rows import ROW_SCHEMA, RowError
from schemas.text import shorten
from schemas.train import ClmStage, SftStage
from trainers.examples import Message, TrainingRow

_DRAWS = 1 << 32
# Of Alpaca's columns, the one that instruction corpora often lack.
_OPTIONAL = ("input",)


class Documents:
    """The documents of some parts, each part to the words that are asked of it.

    Args:
        key: the job key of `parts`.
        words: of all parts together, or None where each gives what it says.

    Attributes:
        content: what identifies the parts' content.
        counts: documents and words of each part.
        unreadable: documents that are no text.
    """

    def __init__(self, key: str, parts: Mapping[str, Part], words: int | None, dev: float, seed: int) -> None:
        self._dev, self._seed = dev, seed
        with _told_of(key):
            self._parts = {name: documents_of(name, part) for name, part in parts.items()}
        self.content = {name: part.content for name, part in self._parts.items()}
        self.counts: dict[str, dict[str, int]] = {}
        self.unreadable = 0
        self._key, self._sections, self._words = key, parts, words

    def __iter__(self) -> Iterator[TrainingRow]:
        surveys = {name: survey(part, self._seed) for name, part in self._parts.items()}
        self.unreadable = sum(found.unreadable for found in surveys.values())
        for name, words in self._asked(surveys).items():
            choice = Choice(surveys[name], words, self._seed)
            counts = self.counts[name] = {"documents": 0, "words": 0}
            for document in filter(choice.takes, self._parts[name]):
                counts["documents"] += 1
                counts["words"] += document.words
                number = row_hash(document.source, document.row_index)
                held_out = is_held_out(number, self._dev)
                yield TrainingRow(document.text, input_row=number, is_held_out=held_out)

    def _asked(self, surveys: Mapping[str, Survey]) -> dict[str, int]:
        there = {name: found.words for name, found in surveys.items()}
        for name, words in there.items():
            if not words:
                remedy = "name another, or leave the part out"
                raise JobError(f"{self._key}.{name}", None, "it has no document that can be read", remedy)
        if self._words is None:
            asked = {name: part.words for name, part in self._sections.items()}
            return {name: words if isinstance(words, int) else there[name] for name, words in asked.items()}
        job = ComposeJob(name="stage", words=self._words, parts=dict(self._sections), output=ComposeOutput(path="-"))
        with _told_of(self._key):
            return words_asked(job, there)


class Completions:
    """The prompts and completions, or conversations, of an sft stage; attributes as of `Documents`."""

    def __init__(self, key: str, stage: SftStage) -> None:
        self._key, self._stage = key, stage
        self.counts: dict[str, dict[str, int]] = {}
        self.unreadable = 0
        self._readers: dict[str, InputReader] = {}
        self._runs: dict[str, RunDocuments] = {}
        self.content: dict[str, dict[str, str]] = {}
        with _told_of(key):
            for name, part in stage.parts.items():
                self.content[name] = self._opened(name, part)

    def _opened(self, name: str, part: Part) -> dict[str, str]:
        if part.run is not None:
            self._runs[name] = RunDocuments(name, part)
            return self._runs[name].content
        try:
            stage = self._stage
            columns = [stage.messages] if stage.messages else [*stage.prompt, stage.completion]
            reader = InputReader(part.input, columns, [column for column in columns[1:-1] if column in _OPTIONAL])
        except JobError as error:
            raise JobError(f"parts.{name}.{error.key}", error.value, error.cause, error.remedy) from None
        self._readers[name] = reader
        return {source.source: f"{source.rows} rows, {source.content}" for source in reader.inputs}

    def __iter__(self) -> Iterator[TrainingRow]:
        for name in self._stage.parts:
            counts = self.counts[name] = {"rows": 0}
            first_fault, absent = "", None
            for source, index, asked, written in self._of_run(name) if name in self._runs else self._of_input(name):
                absent = (set(self._stage.prompt or ()) if absent is None else absent) - {*_OPTIONAL, *asked}
                try:
                    row = self._row(source, index, asked, written)
                except RowError as error:
                    self.unreadable += 1
                    first_fault = first_fault or f"row {index} of {source}: {error}"
                    continue
                counts["rows"] += 1
                yield row
            for column in sorted(absent or ()):
                raise JobError(f"{self._key}.{name}", None, f"no row of it has `{column}`", "correct `prompt`")
            if not counts["rows"]:
                cause = first_fault or "it has no accepted rows"
                keys = "`messages`" if self._stage.messages else "`prompt` and `completion`"
                remedy = f"map {keys} to columns of it, or leave the part out"
                raise JobError(f"{self._key}.{name}", None, shorten(cause), remedy)

    def _row(self, source: str, index: int, asked: dict[str, Any], written: dict[str, Any]) -> TrainingRow:
        number = row_hash(source, index)
        held_out = is_held_out(number, self._stage.dev)
        if self._stage.messages:
            return TrainingRow(*_conversation(asked, self._stage.messages, written), number, held_out)
        first, *others = self._stage.prompt
        blocks = [text_cell(asked, first), *(text_or_blank_cell(asked, column) for column in others)]
        prompt = "\n\n".join(block.strip() for block in blocks if block)
        completion = text_cell(written, self._stage.completion).strip()
        return TrainingRow(completion, prompt, number, held_out)

    def _of_run(self, name: str) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any]]]:
        """(source, row index, what may be asked, what may be answered): a column of both is the input's to ask."""
        for row in self._runs[name].rows(ROW_SCHEMA.names):
            inputs = json.loads(row["inputs"])
            yield row["source"], row["row_index"], {**row, **inputs}, {**inputs, **row}

    def _of_input(self, name: str) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any]]]:
        reader = self._readers[name]
        for source, index, row in reader.all_rows():
            values = row.values or {}
            yield source, index, values, values


def _conversation(asked: dict[str, Any], column: str, written: dict[str, Any]) -> tuple[str, list[Message]]:
    """What the assistant says last, and all that was said before."""
    messages = messages_cell(asked, column)
    if messages[-1]["role"] != "assistant" and "text" in written:  # a run's row: its teacher wrote the answer
        messages.append({"role": "assistant", "content": text_cell(written, "text")})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()  # nobody answered it
    if not messages:
        raise RowError(f"{column} has no turn of the assistant's")
    if messages[0]["role"] == "assistant":
        raise RowError(f"{column} begins with the assistant's turn, which answers nothing")
    *before, last = ({**message, "content": message["content"].strip()} for message in messages)
    return last["content"], before


def sources_of(number: int, stage: ClmStage | SftStage, seed: int) -> list[Documents | Completions]:
    """What a stage reads.

    Raises:
        KindlingError: nothing is there, it cannot be read, or a column is missing.
    """
    key = f"stages.{number}"
    if isinstance(stage, ClmStage):
        return [Documents(f"{key}.parts", stage.parts, stage.words, stage.dev, seed)]
    # Nothing of what is replayed is held out: the stage is judged by its completions.
    replay = [Documents(f"{key}.replay", stage.replay, None, 0.0, seed)] if stage.replay else []
    return [Completions(f"{key}.parts", stage), *replay]


def row_hash(source: str, row_index: int) -> int:
    """The number, from 0 to 2^32 - 1, that is drawn for an input row by its identity."""
    return int.from_bytes(blake2b(repr((source, row_index)).encode(), digest_size=4).digest(), "big")


def is_held_out(draw: int, share: float) -> bool:
    """Whether the input row of that number is held out."""
    return draw < share * _DRAWS


@contextmanager
def _told_of(key: str) -> Iterator[None]:
    """An error of a part is told by the whole key: `parts.x` is that of `kindling compose`."""
    try:
        yield
    except JobError as error:
        path = error.key.replace("parts", key, 1) if error.key.startswith("parts.") else f"{key}: {error.key}"
        raise JobError(path, error.value, error.cause, error.remedy) from None

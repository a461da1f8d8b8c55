"""Rows that a language model is trained on: documents, or prompts and completions, each trained on or held out.

Invariant: a row is held out or not by a hash of its input row alone. So a corpus that is resumed, grows or lies in
other shards keeps its split, and all texts that were written for one input row, by several prompts or samples, are on
the same side of it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import Any

from pipelines.corpora.documents import RunDocuments, documents_of
from pipelines.corpora.word_budget import Choice, Survey, survey, words_asked
from pipelines.inputs.cells import text_cell, text_or_blank_cell
from pipelines.inputs.conversations import conversation_cell, tools_cell
from pipelines.inputs.reader import InputReader
from schemas.compose import ComposeJob, ComposeOutput, Part
from schemas.errors import JobError
from schemas.rows import ROW_SCHEMA, RowError
from schemas.text import shorten
from schemas.train import ClmStage, SftStage
from trainers.rows import Message, TrainingRow

_HASH_VALUES = 1 << 32
# A prompt column that a corpus may lack: the one of Alpaca's columns that many instruction corpora leave out.
_OPTIONAL_COLUMNS = ("input",)
# The column of the tools that a conversation may call, as TRL and the Hub's chat datasets name it.
_TOOLS = "tools"

# Source and number of an input row, the columns that may make its prompt, and those that may hold its completion.
_SourceRow = tuple[str, int, dict[str, Any], dict[str, Any]]


class TrainingDocuments:
    """Documents of some parts of a corpus, each part up to the number of words that the stage asks of it.

    Args:
        key: job key of `parts`.
        parts: sections of the parts by name.
        words: number of words of all parts together; None where each part says how many it gives.
        held_out_share: share of the input rows that are held out.
        seed: seed that chooses the documents of a part with more words than are asked of it.

    Attributes:
        content: by part, what identifies its content: name of a file, dataset or run -> hash, etag or fingerprint.
        counts: number of documents and words of each part, once the documents were read.
        unreadable: number of documents that have no readable text.
        first_unreadable: place and fault of the first of these.
    """

    def __init__(
        self, key: str, parts: Mapping[str, Part], words: int | None, held_out_share: float, seed: int
    ) -> None:
        self._held_out_share, self._seed = held_out_share, seed
        with errors_under(key):
            self._parts = {name: documents_of(name, part) for name, part in parts.items()}
        self.content = {name: part.content for name, part in self._parts.items()}
        self.counts: dict[str, dict[str, int]] = {}
        self.unreadable, self.first_unreadable = 0, ""
        self._key, self._sections, self._words = key, parts, words

    def __iter__(self) -> Iterator[TrainingRow]:
        surveys = {name: survey(part, self._seed) for name, part in self._parts.items()}
        self.unreadable = sum(counted.unreadable for counted in surveys.values())
        self.first_unreadable = next((each.first_unreadable for each in surveys.values() if each.unreadable), "")
        for name, words in self._words_asked(surveys).items():
            choice = Choice(surveys[name], words, self._seed)
            counts = self.counts[name] = {"documents": 0, "words": 0}
            for document in filter(choice.takes, self._parts[name]):
                counts["documents"] += 1
                counts["words"] += document.words
                number = row_hash(document.source, document.row_index)
                held_out = is_held_out(number, self._held_out_share)
                place = _place(document.source, document.row_index)
                yield TrainingRow(document.text, input_row=number, is_held_out=held_out, place=place)

    def _words_asked(self, surveys: Mapping[str, Survey]) -> dict[str, int]:
        """Returns the number of words that each part gives."""
        available = {name: counted.words for name, counted in surveys.items()}
        for name, words in available.items():
            if not words:
                remedy = "name another, or leave the part out"
                raise JobError(f"{self._key}.{name}", None, "it has no document that can be read", remedy)
        if self._words is None:
            asked = {name: part.words for name, part in self._sections.items()}
            return {name: words if isinstance(words, int) else available[name] for name, words in asked.items()}
        # The budget is shared out as `kindling compose` does it.
        job = ComposeJob(name="stage", words=self._words, parts=dict(self._sections), output=ComposeOutput(path="-"))
        with errors_under(self._key):
            return words_asked(job, available)


class Completions:
    """Prompts with completions, or conversations, of an `sft` stage.

    Args:
        key: job key of the stage's `parts`.
        stage: section of the stage.
        max_rows: largest number of rows of a part that are read; by default all.

    Attributes:
        content: by part, what identifies its content, as for `TrainingDocuments`.
        counts: number of rows of each part, once the rows were read.
        unreadable: number of rows that lack a readable prompt or completion.
        first_unreadable: place and fault of the first of these.
    """

    def __init__(self, key: str, stage: SftStage, max_rows: int | None = None) -> None:
        self._key, self._stage, self._max_rows = key, stage, max_rows
        # The stage has either `messages`, or both of the others.
        self._messages, self._prompt, self._completion = stage.messages, stage.prompt or [], stage.completion or ""
        self.counts: dict[str, dict[str, int]] = {}
        self.unreadable, self.first_unreadable = 0, ""
        self._readers: dict[str, InputReader] = {}
        self._runs: dict[str, RunDocuments] = {}
        self.content: dict[str, dict[str, str]] = {}
        with errors_under(key):
            for name, part in stage.parts.items():
                self.content[name] = self._open(name, part)

    def _open(self, name: str, part: Part) -> dict[str, str]:
        """Opens a part, and returns what identifies its content."""
        if part.input is None:
            self._runs[name] = RunDocuments(name, part)
            return self._runs[name].content
        columns = [self._messages, _TOOLS] if self._messages else [*self._prompt, self._completion]
        optional = [_TOOLS] if self._messages else [column for column in columns[1:-1] if column in _OPTIONAL_COLUMNS]
        try:
            reader = InputReader(part.input, columns, optional, rare=[_TOOLS])
        except JobError as error:
            raise JobError(f"parts.{name}.{error.key}", error.value, error.cause, error.remedy) from None
        self._readers[name] = reader
        return {source.source: f"{source.rows} rows, {source.content}" for source in reader.inputs}

    def __iter__(self) -> Iterator[TrainingRow]:
        for name in self._stage.parts:
            counts = self.counts[name] = {"rows": 0}
            first_fault = ""
            # Prompt columns that no row has had so far: a misspelled name would else make all prompts shorter, unseen.
            absent: set[str] | None = None
            for source, index, prompt_columns, completion_columns in islice(self._source_rows(name), self._max_rows):
                absent = (set(self._prompt) if absent is None else absent) - {*_OPTIONAL_COLUMNS, *prompt_columns}
                try:
                    row = self._row(source, index, prompt_columns, completion_columns)
                except RowError as error:
                    self.unreadable += 1
                    first_fault = first_fault or shorten(f"{_place(source, index)}: {error}")
                    self.first_unreadable = self.first_unreadable or first_fault
                    continue
                counts["rows"] += 1
                yield row
            for column in sorted(absent or ()):
                raise JobError(f"{self._key}.{name}", None, f"no row of it has `{column}`", "correct `prompt`")
            if not counts["rows"]:
                cause = first_fault or "it has no accepted rows"
                keys = "`messages`" if self._messages else "`prompt` and `completion`"
                remedy = f"map {keys} to columns of it, or leave the part out"
                raise JobError(f"{self._key}.{name}", None, shorten(cause), remedy)

    def _row(
        self, source: str, index: int, prompt_columns: dict[str, Any], completion_columns: dict[str, Any]
    ) -> TrainingRow:
        """Makes the training row of an input row.

        Raises:
            RowError: a column is missing, or is not a text.
        """
        number = row_hash(source, index)
        held_out = is_held_out(number, self._stage.dev)
        if self._messages:
            *before, last = _answered_conversation(prompt_columns, self._messages, completion_columns)
            return TrainingRow(
                last["content"] or "", before, number, held_out, _place(source, index), last.get("tool_calls"),
                tools_cell(prompt_columns, _TOOLS),
            )  # fmt: skip
        first, *others = self._prompt
        blocks = [text_cell(prompt_columns, first), *(text_or_blank_cell(prompt_columns, other) for other in others)]
        prompt = "\n\n".join(block for block in blocks if block)
        completion = text_cell(completion_columns, self._completion)
        return TrainingRow(completion, prompt, number, held_out, _place(source, index))

    def _source_rows(self, name: str) -> Iterator[_SourceRow]:
        """Yields the rows of a part.

        A row of a run has the columns of its input row too. A column of both is the input's in a prompt, and the run's
        in a completion: the teacher's `text` answers the input's `text`.
        """
        if name in self._runs:
            for row in self._runs[name].rows(ROW_SCHEMA.names):
                inputs = json.loads(row["inputs"])
                yield row["source"], row["row_index"], {**row, **inputs}, {**inputs, **row}
            return
        for source, index, input_row in self._readers[name].all_rows():
            values = input_row.values or {}  # an unreadable row has none: `_row` says which column it lacks
            yield source, index, values, values


RowSource = TrainingDocuments | Completions


def _place(source: str, index: int) -> str:
    return f"row {index} of {source}"


def _answered_conversation(
    prompt_columns: dict[str, Any], column: str, completion_columns: dict[str, Any]
) -> list[Message]:
    """Returns a conversation up to the last turn of the assistant.

    A conversation that does not end with the assistant's turn is completed by the row's `text`, where it is a row of a
    run: a teacher wrote it. Later turns that nobody answered are left out.

    Raises:
        RowError: there is no turn of the assistant, or the conversation begins with one.
    """
    messages = conversation_cell(prompt_columns, column)
    if messages[-1]["role"] != "assistant" and "text" in completion_columns:
        messages.append({"role": "assistant", "content": text_cell(completion_columns, "text")})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise RowError(f"{column} has no turn of the assistant")
    if messages[0]["role"] == "assistant":
        raise RowError(f"{column} begins with a turn of the assistant, which answers nothing")
    return messages


def row_sources(number: int, stage: ClmStage | SftStage, seed: int) -> list[RowSource]:
    """Opens the data of a stage.

    Args:
        number: number of the stage in its job, from 0.
        stage: section of the stage.
        seed: seed of the job.

    Raises:
        KindlingError: a file or run is missing or cannot be read, or a column is missing.
    """
    key = f"stages.{number}"
    if isinstance(stage, ClmStage):
        return [TrainingDocuments(f"{key}.parts", stage.parts, stage.words, stage.dev, seed)]
    # No replayed text is held out: the stage is measured by its completions.
    replay = [TrainingDocuments(f"{key}.replay", stage.replay, None, 0.0, seed)] if stage.replay else []
    return [Completions(f"{key}.parts", stage), *replay]


def row_hash(source: str, row_index: int) -> int:
    """Returns the hash of an input row's identity, a number from 0 to 2^32 - 1."""
    return int.from_bytes(blake2b(repr((source, row_index)).encode(), digest_size=4).digest(), "big")


def is_held_out(number: int, share: float) -> bool:
    """Returns whether the input row with this `row_hash` is held out, where a share of the rows is."""
    return number < share * _HASH_VALUES


@contextmanager
def errors_under(key: str) -> Iterator[None]:
    """Inside the block, job keys of errors are those of a train job.

    `pipelines.corpora` names parts as `kindling compose` does: its `parts.x` becomes `stages.0.parts.x`.
    """
    try:
        yield
    except JobError as error:
        path = error.key.replace("parts", key, 1) if error.key.startswith("parts.") else f"{key}: {error.key}"
        raise JobError(path, error.value, error.cause, error.remedy) from None

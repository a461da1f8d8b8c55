"""The rows that a language model is trained on: documents, or prompts and completions, each in train or held out.

Which it is, a hash of its input row says. So a corpus that is resumed, grows or lies in other shards keeps its split,
and what was written for one input row by several prompts or samples stays together.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from pipelines.corpus_parts import documents_of
from pipelines.inputs import InputReader
from pipelines.recipes.cells import text_cell, text_or_blank_cell
from pipelines.word_budget import Choice, Survey, survey, words_asked
from schemas.composition import ComposeJob, Destination, Part
from schemas.errors import JobError, RunError, shorten
from schemas.rows import RowError
from schemas.train import ClmStage, SftStage
from services.store import ShardStore
from trainers.examples import Row

_DRAWS = 1 << 32


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

    def __iter__(self) -> Iterator[Row]:
        surveys = {name: survey(part, self._seed) for name, part in self._parts.items()}
        self.unreadable = sum(found.unreadable for found in surveys.values())
        for name, words in self._asked(surveys).items():
            choice = Choice(surveys[name], words, self._seed)
            counts = self.counts[name] = {"documents": 0, "words": 0}
            for document in filter(choice.takes, self._parts[name]):
                counts["documents"] += 1
                counts["words"] += document.words
                yield Row(document.text, dev=held_out(document.source, document.row_index, self._dev))

    def _asked(self, surveys: Mapping[str, Survey]) -> dict[str, int]:
        there = {name: found.words for name, found in surveys.items()}
        for name, words in there.items():
            if not words:
                remedy = "name another, or leave the part out"
                raise JobError(f"{self._key}.{name}", None, "it has no document that can be read", remedy)
        if self._words is None:
            asked = {name: part.words for name, part in self._sections.items()}
            return {name: words if isinstance(words, int) else there[name] for name, words in asked.items()}
        job = ComposeJob(name="stage", words=self._words, parts=dict(self._sections), output=Destination(path="-"))
        with _told_of(self._key):
            return words_asked(job, there)


class Answers:
    """The prompts and completions of an sft stage; attributes as of `Documents`."""

    def __init__(self, key: str, stage: SftStage) -> None:
        self._key, self._stage = key, stage
        self.counts: dict[str, dict[str, int]] = {}
        self.unreadable = 0
        self._readers: dict[str, InputReader] = {}
        self.content: dict[str, dict[str, str]] = {}
        with _told_of(key):
            for name, part in stage.parts.items():
                self.content[name] = self._opened(name, part)

    def _opened(self, name: str, part: Part) -> dict[str, str]:
        if part.run is not None:
            return documents_of(name, part).content
        try:
            prompt, completion = self._stage.prompt, self._stage.completion
            reader = InputReader(part.input, [*prompt, completion], optional=prompt[1:])
        except JobError as error:
            raise JobError(f"parts.{name}.{error.key}", error.value, error.cause, error.remedy) from None
        self._readers[name] = reader
        return {source.source: f"{source.rows} rows, {source.content}" for source in reader.inputs}

    def __iter__(self) -> Iterator[Row]:
        for name, part in self._stage.parts.items():
            counts = self.counts[name] = {"rows": 0}
            first_fault = ""
            for source, index, values in self._of_run(name, part) if part.run is not None else self._of_input(name):
                try:
                    row = self._row(source, index, values)
                except RowError as error:
                    self.unreadable += 1
                    first_fault = first_fault or f"row {index} of {source}: {error}"
                    continue
                counts["rows"] += 1
                yield row
            if not counts["rows"]:
                cause = first_fault or "it has no accepted rows"
                remedy = "map `prompt` and `completion` to columns of it, or leave the part out"
                raise JobError(f"{self._key}.{name}", None, shorten(cause), remedy)

    def _row(self, source: str, index: int, values: dict[str, Any]) -> Row:
        first, *others = self._stage.prompt
        blocks = [text_cell(values, first), *(text_or_blank_cell(values, column) for column in others)]
        prompt = "\n\n".join(block.strip() for block in blocks if block)
        completion = text_cell(values, self._stage.completion).strip()
        return Row(completion, prompt, held_out(source, index, self._stage.dev))

    def _of_run(self, name: str, part: Part) -> Iterator[tuple[str, int, dict[str, Any]]]:
        try:
            for batch in ShardStore(part.run).rows():
                for row in batch.to_pylist():
                    if part.variant in (None, row["variant"]):
                        yield row["source"], row["row_index"], {**row, **json.loads(row["inputs"])}
        except (OSError, pa.ArrowException) as error:
            cause = f"it cannot be read: {shorten(str(error))}"
            remedy = "`kindling verify` lists all damage, and repairs it"
            raise RunError(f"{self._key}.{name}.run", part.run, cause, remedy) from None

    def _of_input(self, name: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        reader = self._readers[name]
        for source, index, row in reader.rows(0, sum(each.rows for each in reader.inputs)):
            yield source, index, row.values if row.values is not None else {}


def sources_of(number: int, stage: ClmStage | SftStage, seed: int) -> list[Documents | Answers]:
    """What a stage reads.

    Raises:
        KindlingError: nothing is there, it cannot be read, or a column is missing.
    """
    key = f"stages.{number}"
    if isinstance(stage, ClmStage):
        return [Documents(f"{key}.parts", stage.parts, stage.words, stage.dev, seed)]
    # Nothing of what is replayed is held out: the stage is judged by its completions.
    replay = [Documents(f"{key}.replay", stage.replay, None, 0.0, seed)] if stage.replay else []
    return [Answers(f"{key}.parts", stage), *replay]


def held_out(source: str, row_index: int, share: float) -> bool:
    """Whether an input row is held out."""
    digest = blake2b(repr((source, row_index)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * _DRAWS


@contextmanager
def _told_of(key: str) -> Iterator[None]:
    """An error of a part is told by the whole key: `parts.x` is that of `kindling compose`."""
    try:
        yield
    except JobError as error:
        path = error.key.replace("parts", key, 1) if error.key.startswith("parts.") else f"{key}: {error.key}"
        raise JobError(path, error.value, error.cause, error.remedy) from None

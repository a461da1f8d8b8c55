"""Streams the documents of each part of a corpus: accepted rows of a run, or rows of any input."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import pyarrow as pa

from pipelines.inputs.cells import text_cell
from pipelines.inputs.reader import InputReader
from pipelines.publishing.card_filters import quality_sections
from pipelines.publishing.removed_rows import RemovedRows, read_removed_rows
from pipelines.publishing.reviewed_rows import read_verdicts
from schemas.compose import Part
from schemas.errors import JobError, RunError
from schemas.rows import RowError
from schemas.text import shorten
from services.storage.parts import in_input_order
from services.storage.shard_index import read_index
from services.storage.store import ShardStore, shard_path

_log = logging.getLogger("kindling")


@dataclass(frozen=True, slots=True)
class Document:
    """One document and its place; the columns of CORPUS_SCHEMA.

    Attributes:
        text: the text; empty where the document cannot be read.
        words: number of words, as `str.split` counts them.
        fingerprint: fingerprint of the run, or content hash of the file.
        source: name of the input source.
        row_index: index of the row in its source.
        sample: number of the sample, in a run.
        variant: name of the variant, in a run.
        fault: reason why the document cannot be read; empty where it can.
    """

    text: str
    words: int
    fingerprint: str
    source: str
    row_index: int
    sample: int = 0
    variant: str = ""
    fault: str = ""


class Documents(Protocol):
    """The documents of a part.

    Attributes:
        content: identity of each run or file that the part is read from, by its name.
        complete: False for a run that has not finished all its shards.
    """

    content: dict[str, str]
    complete: bool

    def __iter__(self) -> Iterator[Document]:
        """Yields all documents in the order of their input; may be called again."""
        ...


def documents_of(name: str, part: Part) -> Documents:
    """Opens the documents of a part.

    Args:
        name: name of the part.
        part: the part: a run or an input.

    Raises:
        JobError: the run or the input does not exist, or cannot be read.
        RunError: run.json is damaged, or the run has changed since `kindling dedup`.
    """
    return RunDocuments(name, part) if part.run is not None else _InputDocuments(name, part)


class RunDocuments:
    """The accepted rows of the shards that are committed at this moment, without those that `kindling dedup` removed.

    Args:
        name: name of the part, for errors.
        part: a part with a run.

    Raises:
        JobError: the folder holds no run, no shard of it is committed, or it lacks the variant.
        RunError: it has changed since `kindling dedup`.
    """

    def __init__(self, name: str, part: Part) -> None:
        assert part.run is not None  # the schema: a part has either a run or an input
        self._store, self._variant = ShardStore(part.run), part.variant
        run = self._store.read_run()
        if run is None:
            cause, remedy = "the folder has no run.json", "name the output.path of an augmentation job"
            raise JobError(f"parts.{name}.run", part.run, cause, remedy)
        if part.variant not in (None, *run.variant_names):
            remedy = f"its variants are {shorten('; '.join(run.variant_names))}"
            raise JobError(f"parts.{name}.variant", part.variant, "the run has no such variant", remedy)
        sizes = self._store.part_sizes()
        if not sizes:
            raise JobError(f"parts.{name}.run", part.run, "it has no shard yet", "run its job, or leave the part out")
        self._removed = read_removed_rows(self._store, run, f"parts.{name}.run") if part.dedup else RemovedRows()
        self._parts, self._run = in_input_order(sizes), run
        self.complete = len(self._store.committed_shards()) == run.shards
        # The digest identifies the committed rows: a shard changes only where a repair made it again, and then its
        # time differs.
        times = [(shard, size, self._store.read_manifest(shard).finished_at) for shard, size in sorted(sizes.items())]
        digest = blake2b(repr(times).encode(), digest_size=16).hexdigest()
        removed = f", without {self._removed}, {self._removed.digest}" if self._removed.digest else ""
        self.content = {part.run: f"run {run.fingerprint}, {len(sizes)} shards, {digest}{removed}"}
        if self._removed.identities:
            _log.info("parts.%s: left out: %s", name, self._removed)

    def quality(self, name: str) -> str:
        """Returns the sections on the quality of its rows, for the card of the corpus.

        Args:
            name: name of the part.

        Raises:
            RunError: the index of its shards, or a file of verdicts of people, is damaged.
        """
        outcomes = read_index(self._store, self._run).totals().outcomes
        removed = self._removed.by_rule if self._removed.digest else None
        return quality_sections(self._run, outcomes, removed, read_verdicts(self._store), name)

    def __iter__(self) -> Iterator[Document]:
        """Yields all documents in the order of their input."""
        for row in self.rows(["text", "source", "row_index", "sample", "variant"]):
            yield _document(self._run.fingerprint, **row)

    def rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yields the rows as dicts; IDENTITY must be among the columns.

        Raises:
            RunError: a shard cannot be read.
        """
        for part in self._parts:
            path = shard_path("data", part)
            try:
                for batch in self._store.read_batches(path, columns):
                    for row in batch.to_pylist():
                        if self._variant in (None, row["variant"]) and not self._removed.has(row):
                            yield row
            except (OSError, pa.ArrowException) as error:
                remedy = "`kindling verify` lists all damage, and repairs it"
                cause = f"it cannot be read: {shorten(str(error))}"
                raise RunError(self._store.path(path), None, cause, remedy) from None


class _InputDocuments:
    """The rows of an input, whose column `text` holds the documents."""

    complete: bool = True

    def __init__(self, name: str, part: Part) -> None:
        assert part.input is not None  # the schema: a part has either a run or an input
        self._name = name
        with self._named_errors():
            self._reader = InputReader(part.input, ["text"])
        self._contents = {source.source: source.content for source in self._reader.inputs}
        self.content = {source.source: f"{source.rows} rows, {source.content}" for source in self._reader.inputs}

    def __iter__(self) -> Iterator[Document]:
        end = sum(source.rows for source in self._reader.inputs)
        with self._named_errors():
            for source, index, row in self._reader.rows(0, end):
                fingerprint = self._contents[source]
                if row.values is None:
                    yield Document("", 0, fingerprint, source, index, fault=row.fault)
                else:
                    yield _document(fingerprint, row.values["text"], source, index)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Inside the block an error of the input names its part."""
        try:
            yield
        except JobError as error:
            raise JobError(f"parts.{self._name}.{error.key}", error.value, error.cause, error.remedy) from None


def _document(fingerprint: str, text: Any, source: str, row_index: int, sample: int = 0, variant: str = "") -> Document:
    place = (fingerprint, source, row_index, sample, variant)
    try:
        text = text_cell({"text": text}, "text")
    except RowError as error:
        return Document("", 0, *place, fault=str(error))
    return Document(text, len(text.split()), *place)

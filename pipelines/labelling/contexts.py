"""The shards of `label`: sentences with their emotions, and in the footer of each shard counts of its lines."""

from collections import Counter

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from schemas.rows import column
from services.storage.digest import ContentDigest
from services.storage.filesystem import write_atomic
from services.storage.store import ShardStore, parquet_bytes, shard_path

_KEY = b"kindling.contexts"


CONTEXT_SCHEMA = pa.schema(
    [
        column("context", pa.string(), "the sentence"),
        column("emotions", pa.list_(pa.string()), "its labels, best first"),
        column("scores", pa.list_(pa.float32()), "the classifier's score of each, in [0, 1]"),
        column("source", pa.string(), "the raw file, as run.json names it"),
        column("offset", pa.int64(), "byte in that file at which the sentence's line begins"),
        column("sentence", pa.int32(), "number of the sentence in its line, from 0"),
    ]
)


class ContextManifest(BaseModel):
    """Content of the footer of a shard.

    Attributes:
        format: version of this format.
        fingerprint: fingerprint of the run; a shard with another one belongs to another run.
        shard: number of the shard.
        source: the raw file, as run.json names it.
        start: first byte of the range.
        end: byte after the range; None: the range ends with the file.
        lines: number of lines that begin in the range.
        sentences: number of their sentences that were scored.
        kept: number of sentences in the shard.
        dropped: number of lines and sentences that were not scored, by rule.
        neutral: number of scored sentences whose best label was neutral.
        unsure: number of scored sentences whose best label had a score below the threshold.
        emotions: number of kept sentences by label; a sentence with two labels counts for both.
        finished_at: time at which the shard was made, ISO 8601 in UTC; empty in shards of older versions.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    fingerprint: str
    shard: int
    source: str
    start: int
    end: int | None
    lines: int
    sentences: int
    kept: int
    dropped: dict[str, int]
    neutral: int
    unsure: int
    emotions: dict[str, int]
    finished_at: str = ""


def commit(store: ShardStore, manifest: ContextManifest, contexts: pa.Table) -> None:
    """Writes a shard in one atomic step."""
    data = parquet_bytes(contexts, CONTEXT_SCHEMA, {_KEY: manifest.model_dump_json().encode()})
    write_atomic(store.fs, store.path(shard_path("data", manifest.shard)), data)


def read_manifest(store: ShardStore, shard: int) -> ContextManifest:
    """Reads the footer of a committed shard.

    Raises:
        RunError: the shard is damaged, or another program wrote it.
        UnreadableError: the file system failed.
    """
    return store.read_footer(shard, _KEY, ContextManifest)


class LabelCounts:
    """Sums of the counts of all committed shards of a run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.kept_of_source: Counter[str] = Counter()
        self.sentences_of_source: Counter[str] = Counter()
        self.emotions: Counter[str] = Counter()
        self.digest = ContentDigest()

    def add(self, manifest: ContextManifest) -> None:
        """Adds the counts of one shard."""
        self.counts.update(
            shards=1, lines=manifest.lines, sentences=manifest.sentences, kept=manifest.kept,
            neutral=manifest.neutral, unsure=manifest.unsure,
        )  # fmt: skip
        self.dropped.update(manifest.dropped)
        self.kept_of_source[manifest.source] += manifest.kept
        self.sentences_of_source[manifest.source] += manifest.sentences
        self.emotions.update(manifest.emotions)
        self.digest.add(manifest.model_dump_json())

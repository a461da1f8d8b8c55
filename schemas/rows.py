"""One Arrow schema for every shard, and what identifies a row."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from schemas.sweep import DEFAULT_VARIANT

ACCEPTED = "accepted"
REJECTED = "rejected"
ERROR = "error"
STATES = (ACCEPTED, REJECTED, ERROR)

# The columns that tell one output of a run from all others.
IDENTITY = ("source", "row_index", "sample", "variant")
# The folder that holds the rows of each state. Only `data/` is what trainers and load_dataset read.
FOLDER_OF_STATE = {ACCEPTED: "data", REJECTED: "rejected", ERROR: "errors"}


def _column(name: str, type_: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, type_, nullable=False, metadata={"description": meaning})


ROW_SCHEMA = pa.schema(
    [
        _column("text", pa.string(), "what the model wrote; empty where nothing was generated"),
        _column("state", pa.string(), "accepted, rejected or error"),
        _column(
            "reason", pa.string(), "why it was rejected or failed; else what was cut off round its text, the [...]"
        ),
        _column("emotion", pa.string(), "the emotion asked for; empty where the recipe asks for none"),
        _column("emotions", pa.list_(pa.string()), "all labels of the input row, the one asked for first"),
        _column("inputs", pa.string(), "the input columns that the prompt was made from, as a JSON object"),
        _column("source", pa.string(), "the input file or dataset, as run.json names it"),
        _column("row_index", pa.int64(), "number of the row in its source, from 0"),
        _column("sample", pa.int32(), "number of this output among the samples of its row, from 0"),
        _column("variant", pa.string(), "name of the prompt and sampling variant"),
        _column("prompt_id", pa.string(), "recipe and prompt, as babylm_story/p3"),
        _column("prompt_hash", pa.string(), "hash of the prompt's template and examples"),
        _column("model", pa.string(), "model id or path"),
        _column("model_revision", pa.string(), "commit or content hash of the model that was served"),
        _column("seed", pa.int64(), "the row's own sampling seed"),
        _column("finish_reason", pa.string(), "stop, length, or the state of a row that was not generated"),
        _column("prompt_tokens", pa.int32(), "tokens of the prompt, chat template included"),
        _column("cached_prompt_tokens", pa.int32(), "those of them found in the prefix cache"),
        _column("output_tokens", pa.int32(), "tokens generated"),
        _column("attempts", pa.int32(), "times the row was sent to an engine; 0 if never"),
        _column("started_at", pa.timestamp("us", tz="UTC"), "when the row was handed to the engine"),
        _column("duration_seconds", pa.float64(), "from then to its last token, queueing in the engine included"),
    ]
)

_SEED_BITS = 63  # Parquet's int64 and torch's generators take it; never negative


class RowError(Exception):
    """This row cannot be generated, and why; the job goes on without it.

    Args:
        reason: one sentence, kept in errors/ as the row's `reason`.
    """


class RowRejection(Exception):
    """Quality control refuses this row, before it is generated or after; the job goes on without it.

    Args:
        reason: the name of the rule, by which rows are counted; ` of row ...` may follow it.
    """


@dataclass(slots=True)
class WorkRow:
    """One output to make: one sample of one input row, by one variant.

    Attributes:
        output_id: number of this output in the whole run, from 0: by input row, then sample, then variant.
        shard: number of the shard it belongs to.
        values: the recipe's fields, or None where the input row could not be read.
        fault: why it could not be read; empty otherwise.
        attempt: times it was already sent to an engine that died under it.
        prefix: rows that have this in common begin with the same prompt text; "" says nothing.
        variant: name of the prompt and sampling that it is made with.
        refused: why it is not to be generated, where that was found before; empty otherwise.
    """

    output_id: int
    shard: int
    source: str
    row_index: int
    sample: int
    values: dict[str, Any] | None
    fault: str = ""
    attempt: int = 0
    prefix: str = ""
    variant: str = DEFAULT_VARIANT
    refused: str = ""


@dataclass(frozen=True)
class Prompt:
    """What a recipe makes of a row.

    Attributes:
        messages: the conversation, each `{"role", "content"}`; the served model's chat template is applied to it.
        inputs: the fields it was made from, kept in the shard as JSON.
        emotion: the emotion asked for, or "".
        emotions: all labels the row came with, the one asked for first.
    """

    messages: list[dict[str, str]]
    inputs: dict[str, Any]
    emotion: str = ""
    emotions: list[str] = field(default_factory=list)


def rule_of(reason: str) -> str:
    """The rule that rejected a row: `near_duplicate`, where the reason is `near_duplicate of row 7 of a.json`."""
    return reason.partition(" of row ")[0]


def row_seed(run_seed: int, source: str, row_index: int, sample: int, *, attempt: int = 0) -> int:
    """The sampling seed of one output: a hash of the run's seed and of which row it is, in [0, 2**63).

    All variants of a row share it, so that they differ by what the sweep varies alone: the same is drawn for their
    prompts (a genre, an emotion), and the same noise picks their words. A job without a sweep draws the same again.

    `attempt` counts asked-for retries of a rejected row, not restarts: a row that is generated again after a crash
    keeps its seed.
    """
    identity = repr((run_seed, source, row_index, sample, DEFAULT_VARIANT, attempt)).encode()
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def to_batch(records: list[dict[str, Any]]) -> pa.RecordBatch:
    """Rows as dicts, each with every column of ROW_SCHEMA, to one Arrow batch.

    Raises:
        KeyError: a record lacks a column.
    """
    columns = [pa.array([record[f.name] for record in records], type=f.type) for f in ROW_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


@dataclass(frozen=True)
class FinishedRows:
    """Finished rows.

    Attributes:
        output_ids: number in the run of each row's output.
        shards: of each row.
        encoded: the rows as one Arrow IPC batch of ROW_SCHEMA, which only the writer needs to read.
        share: requests that the job may have in flight from now on.
        kv_cache_usage: of the engine, now; see `Engine.kv_cache_usage`.
    """

    output_ids: list[int]
    shards: list[int]
    encoded: bytes
    share: int
    kv_cache_usage: float = math.nan

    @classmethod
    def of(
        cls, rows: list[WorkRow], batch: pa.RecordBatch, share: int = 0, kv_cache_usage: float = math.nan
    ) -> "FinishedRows":
        """The rows whose records `batch` holds."""
        encoded = batch.serialize().to_pybytes()
        return cls([row.output_id for row in rows], [row.shard for row in rows], encoded, share, kv_cache_usage)

    @property
    def batch(self) -> pa.RecordBatch:
        """The rows of ROW_SCHEMA."""
        return pa.ipc.read_record_batch(pa.py_buffer(self.encoded), ROW_SCHEMA)

"""The Arrow schema of all shards, the identity of a row, and its seed.

Invariant: source, row index, sample and variant identify an output. Its seed depends on nothing else but the run's seed
and the number of asked-for retries, so an output that is generated again after a crash has the same seed.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from schemas.sweep import DEFAULT_VARIANT

ACCEPTED = "accepted"
REJECTED = "rejected"
ERROR = "error"
STATES = (ACCEPTED, REJECTED, ERROR)

# Columns that together identify one output of a run.
IDENTITY = ("source", "row_index", "sample", "variant")
# Folder of the shards' files for each state. Trainers and load_dataset read `data/` alone.
FOLDER_OF_STATE = {ACCEPTED: "data", REJECTED: "rejected", ERROR: "errors"}


def column(name: str, type_: pa.DataType, meaning: str) -> pa.Field:
    """Returns a column of an Arrow schema, which is never null, with its meaning for the dataset card."""
    return pa.field(name, type_, nullable=False, metadata={"description": meaning})


ROW_SCHEMA = pa.schema(
    [
        column("text", pa.string(), "text that the recipe kept of the response; empty where nothing was generated"),
        column("state", pa.string(), "accepted, rejected or error"),
        column(
            "reason",
            pa.string(),
            "rule that rejected the row, or error that it failed with; of an accepted row the response, with [...] in "
            "place of the text, where something was cut off",
        ),
        column("emotion", pa.string(), "emotion that the prompt asks for; empty where the recipe asks for none"),
        column("emotions", pa.list_(pa.string()), "emotions of the input row, first the one that the prompt asks for"),
        column(
            "inputs",
            pa.string(),
            "columns of the input row that the prompt was made from, and those of `input.keep`, as JSON",
        ),
        column("source", pa.string(), "input file or dataset, as run.json names it"),
        column("row_index", pa.int64(), "number of the input row in its source, from 0"),
        column("sample", pa.int32(), "number of the output among the samples of its input row and variant, from 0"),
        column("variant", pa.string(), "name of the variant of the sweep; `default` without a sweep"),
        column("prompt_id", pa.string(), "recipe and name of the prompt, as babylm_story/p3"),
        column("prompt_hash", pa.string(), "hash of the prompt's template and examples"),
        column("model", pa.string(), "id or path of the model"),
        column("model_revision", pa.string(), "commit or content hash of the model"),
        column(
            "seed",
            pa.int64(),
            "seed of the output: of the draws for its prompt, and of its sampling unless the job sets `seeds`",
        ),
        column(
            "finish_reason",
            pa.string(),
            "stop; length; repetition, where vLLM ended a loop; early_stop, where a rule was sure to reject the text; "
            "or the state of a row that was not generated",
        ),
        column("prompt_tokens", pa.int32(), "number of prompt tokens, chat template included"),
        column("cached_prompt_tokens", pa.int32(), "number of prompt tokens that the prefix cache held"),
        column("output_tokens", pa.int32(), "number of generated tokens"),
        column("attempts", pa.int32(), "number of times that the row was sent to an engine"),
        column("started_at", pa.timestamp("us", tz="UTC"), "time at which the row was sent to the engine"),
        column("duration_seconds", pa.float64(), "seconds from then to the last token, waiting included"),
    ]
)

# Parquet's int64 and torch's generators hold a non-negative number of 63 bits.
_SEED_BITS = 63


class RowError(Exception):
    """Fault of one row: it cannot be generated. The row ends in state error, and the job goes on.

    Args:
        reason: one sentence, which becomes the row's column `reason`.
    """


class RowRejection(Exception):
    """Refusal of one row by a rule, before or after generation. The row ends in state rejected, and the job goes on.

    Args:
        reason: name of the rule, by which rejected rows are counted; ` of row ...` may follow it.
    """


@dataclass(slots=True)
class WorkRow:
    """Output to generate: one sample of one input row, by one variant.

    Attributes:
        output_id: number of this output in the whole run, from 0: by input row, then sample, then variant.
        shard: number of the shard that the output belongs to.
        source: input file or dataset of the input row.
        row_index: number of the input row in its source, from 0.
        sample: number of the output among the samples of its input row and variant, from 0.
        values: fields of the recipe, by name; None where the input row could not be read.
        fault: reason why the input row could not be read; empty otherwise.
        attempt: number of times that the row was sent to an engine which died before the row was finished.
        prefix: key that rows share whose prompts begin with the same text, so that they are sent together; "" where
            the recipe knows none.
        variant: name of the variant, which sets prompt and sampling.
        refused: reason why the row is rejected without generation, where that is known in advance; empty otherwise.
        retry: number of the retry that generates the row again; 0 for its first generation.
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
    retry: int = 0

    @property
    def characters(self) -> int:
        """Number of characters of its texts, which are nearly all of the memory of a large row."""
        return characters_in(self.values)


@dataclass(frozen=True)
class Prompt:
    """Prompt that a recipe makes from an input row.

    Attributes:
        messages: conversation of `{"role", "content"}` dicts, to which the model's chat template is applied.
        inputs: fields that the prompt was made from, which the shard keeps as JSON.
        emotion: emotion that the prompt asks for, or "".
        emotions: all emotions of the input row, first the one that the prompt asks for.
    """

    messages: list[dict[str, str]]
    inputs: dict[str, Any]
    emotion: str = ""
    emotions: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Texts of all messages, one below the other."""
        return "\n".join(str(message["content"]) for message in self.messages)


def characters_in(value: Any) -> int:
    """Returns the number of characters of all texts in a value, at any depth."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(characters_in, value.values()))
    return sum(map(characters_in, value)) if isinstance(value, list) else 0


def rule_of(reason: str) -> str:
    """Returns the rule that rejected a row: `near_duplicate` for the reason `near_duplicate of row 7 of a.json`."""
    return reason.partition(" of row ")[0]


def counts_text(counts: Mapping[str, int]) -> str:
    """Formats counts by state as `510 accepted, 2 error`, without the states that no row has."""
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts.get(state)) or "no rows"


def row_seed(
    run_seed: int,
    source: str,
    row_index: int,
    sample: int,
    *,
    attempt: int = 0,
    generation: int = 0,
    try_number: int = 1,
) -> int:
    """Returns the sampling seed of one generation of an output, in [0, 2**63): a hash of run seed and row identity.

    All variants of a row have the same seed, and a job without a sweep has it too. So variants differ only by the keys
    of the sweep: their prompts draw the same genre or emotion, and their tokens are drawn by the same random numbers.

    Args:
        run_seed: key `seed` of the job.
        source: input file or dataset of the input row.
        row_index: number of the input row in its source, from 0.
        sample: number of the output among the samples of its input row and variant, from 0.
        attempt: number of the asked-for retry; 0 for the first generation. Restarts after a crash do not count.
        generation: number of the generation in the row's program, from 0.
        try_number: number of the try of the program, from 1.
    """
    # The first generation of the first try has the seed that it has in a job without a program.
    place = (generation, try_number) if generation or try_number > 1 else ()
    identity = repr((run_seed, source, row_index, sample, DEFAULT_VARIANT, attempt, *place)).encode()
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def engine_seed(run_seed: int, *place: int) -> int:
    """Returns the seed of an engine's own random numbers, in [0, 2**32): a hash of a run's seed and the engine's place.

    Engines with the same seed would write the same texts to the same prompts, such as those of the samples of a row.

    Args:
        run_seed: key `seed` of the job, or a seed that follows from it.
        place: numbers that tell this engine from all others of the run.
    """
    digest = hashlib.blake2b(repr((run_seed, *place)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def to_batch(records: list[dict[str, Any]], schema: pa.Schema = ROW_SCHEMA) -> pa.RecordBatch:
    """Returns rows as one Arrow batch.

    Args:
        records: rows as dicts, each with every column of the schema.
        schema: ROW_SCHEMA, or the columns of a run whose rows have programs.

    Raises:
        KeyError: a record lacks a column.
    """
    columns = [pa.array([record[f.name] for record in records], type=f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class FinishedRows:
    """Rows that a replica finished, as it sends them to the driver.

    Attributes:
        output_ids: numbers of the outputs in the run, one for each row.
        shards: numbers of the shards, one for each row.
        encoded: rows as one Arrow IPC batch, which the writer alone decodes.
        share: number of requests that the job may have in flight on this replica from now on.
        kv_cache_usage: share of the engine's KV cache in use, 0 to 1; NaN where it is not known.
        schema: columns of the rows: ROW_SCHEMA, which is not sent, or another one.
    """

    output_ids: list[int]
    shards: list[int]
    encoded: bytes
    share: int
    kv_cache_usage: float = math.nan
    schema: pa.Schema | None = None

    @classmethod
    def of(
        cls, rows: list[WorkRow], batch: pa.RecordBatch, share: int = 0, kv_cache_usage: float = math.nan
    ) -> "FinishedRows":
        """Encodes finished rows.

        Args:
            rows: rows in the order of `batch`.
            batch: records of the same rows.
            share: number of requests that the job may have in flight on this replica from now on.
            kv_cache_usage: share of the engine's KV cache in use, 0 to 1.
        """
        encoded = batch.serialize().to_pybytes()
        schema = None if batch.schema.equals(ROW_SCHEMA) else batch.schema
        return cls([row.output_id for row in rows], [row.shard for row in rows], encoded, share, kv_cache_usage, schema)

    @property
    def batch(self) -> pa.RecordBatch:
        """Decodes the rows."""
        return pa.ipc.read_record_batch(pa.py_buffer(self.encoded), self.schema or ROW_SCHEMA)

"""Columns of rows that took several generations or tries, or have thoughts, beside those of ROW_SCHEMA.

A row's program runs all its generations: each is one request to the engine. A try is one run of the whole program. The
last try is the row; each earlier one was rejected, and lies in `tries/` with its reason.
"""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.rows import ROW_SCHEMA, column, rule_of

TRIES_FOLDER = "tries"
"""folder of a run's tries that were not the last one of their row"""

EARLIER_TRIES = "earlier_tries"
"""column, in the row log alone, of a row's earlier tries; a shard has them in `tries/`"""

TOKEN_COLUMNS = ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
"""columns with the tokens of the generation that a row's text comes from"""


PROGRAM_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        column("try", pa.int32(), "number of this try of the row, from 1: in data/ the try that was accepted"),
        column("scores", pa.string(), "scores of the text by the checks that give one, as JSON: {check: score}"),
        column(
            "generations",
            pa.string(),
            "generations of this try, as JSON in their order: name, text, value, prompt_hash, finish_reason, tokens, "
            "seconds; empty where the row has one generation",
        ),
        column("other_prompt_tokens", pa.int32(), "prompt tokens of the row's other generations and earlier tries"),
        column("other_cached_prompt_tokens", pa.int32(), "number of those that the prefix cache held"),
        column("other_output_tokens", pa.int32(), "output tokens of the row's other generations and earlier tries"),
    ]
)
"""columns of a run whose rows may take several generations or tries"""

REASONING = column("reasoning", pa.string(), "thoughts that the model wrote before the text; empty where it wrote none")
"""last column of a run whose model thinks before it answers"""


def row_schema(has_programs: bool, has_reasoning: bool) -> pa.Schema:
    """Returns the columns of a run's shards.

    Args:
        has_programs: its rows may take several generations or tries.
        has_reasoning: its model's thoughts are kept.
    """
    schema = PROGRAM_SCHEMA if has_programs else ROW_SCHEMA
    return schema.append(REASONING) if has_reasoning else schema


def logged_schema(has_programs: bool, has_reasoning: bool) -> pa.Schema:
    """Returns the columns of the same rows on their way to their shard.

    The columns of ROW_SCHEMA come first, so a record of a log can be read with ROW_SCHEMA alone.
    """
    schema = row_schema(has_programs, has_reasoning)
    tries = pa.field(EARLIER_TRIES, pa.list_(pa.struct(list(schema))), nullable=False)
    return schema.append(tries) if has_programs else schema


LOGGED_PROGRAM_SCHEMA = logged_schema(has_programs=True, has_reasoning=False)

_DEFAULTS = {"try": 1, "scores": "", "generations": "", EARLIER_TRIES: ()}


def with_program_columns(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of ROW_SCHEMA as one of LOGGED_PROGRAM_SCHEMA: its first try, of one generation."""
    return {**{name: _DEFAULTS.get(name, 0) for name in LOGGED_PROGRAM_SCHEMA.names[len(ROW_SCHEMA) :]}, **record}


def all_tokens(rows: pa.RecordBatch | pa.Table, column: str) -> int:
    """Returns the tokens of all generations and tries of rows.

    Args:
        rows: rows with the column, and its `other_` column where their run has one.
        column: one of TOKEN_COLUMNS.
    """
    names = [name for name in (column, f"other_{column}") if name in rows.schema.names]
    return sum(pc.sum(rows[name]).as_py() or 0 for name in names)


def split_tries(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Returns rows without their column EARLIER_TRIES, and these tries as rows with the same columns and order."""
    if EARLIER_TRIES not in rows.schema.names:
        return rows, rows.schema.empty_table()
    last_tries = rows.drop_columns([EARLIER_TRIES])
    tries = [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in rows[EARLIER_TRIES].chunks]
    return last_tries, pa.Table.from_batches(tries, schema=last_tries.schema)


def tries_by_rule(rows: pa.Table | pa.RecordBatch) -> Counter[str]:
    """Counts the earlier tries of logged rows by the rule that rejected them; none where rows have no programs."""
    if EARLIER_TRIES not in rows.schema.names:
        return Counter()
    tries = rows[EARLIER_TRIES]
    # The reasons alone: this runs in the driver for each batch of rows, and the texts of tries are long.
    chunks = tries.chunks if isinstance(tries, pa.ChunkedArray) else [tries]
    return Counter(rule_of(reason) for chunk in chunks for reason in chunk.flatten().field("reason").to_pylist())

"""The rows that a replay generates again: a seeded random sample of the accepted ones.

Invariant: each accepted row that the run's present job generated has the same chance.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pipelines.augmentation.plan import rows_of_part
from pipelines.inputs.reader import InputRows
from pipelines.run_folder import read_part
from schemas.errors import RunError
from schemas.rows import ACCEPTED, IDENTITY, WorkRow
from schemas.run import RunRecord
from services.replicas.row_records import Recipe
from services.storage.output_ids import OutputIds
from services.storage.parts import retry_of
from services.storage.shard_index import read_index
from services.storage.store import ShardStore, shard_path

_COLUMNS = [*IDENTITY, "text", "output_tokens"]


@dataclass(frozen=True)
class DrawnRow:
    """An accepted row of a run.

    Attributes:
        output_id: number of its output in the run.
        part: number of the part that holds it.
        record: its columns: identity, `text`, `output_tokens`, and `reasoning` where the run has it.
    """

    output_id: int
    part: int
    record: dict[str, Any]


def draw_rows(store: ShardStore, run: RunRecord, count: int, seed: int) -> tuple[list[DrawnRow], int]:
    """Draws committed accepted rows, or takes all of them.

    Returns:
        The rows in input order; and the number of accepted rows that are not drawn from, because the job was another
        one when they were generated: a retry changed it later.

    Raises:
        RunError: no row can be drawn, or a shard is damaged.
    """
    changed_at = max((retry.number for retry in run.retries if retry.changes), default=0)
    entries = read_index(store, run).table()
    counts = dict(zip(entries["shard"].to_pylist(), entries[ACCEPTED].to_pylist(), strict=True))
    parts = sorted(part for part in counts if retry_of(part) >= changed_at)
    ends = list(accumulate(counts[part] for part in parts))
    if not ends or not ends[-1]:
        cause = "it has no committed row that was accepted" + (", since a retry changed its job" if changed_at else "")
        raise RunError("RUN", store.url, cause, "`kindling status` shows how far the run is")
    places: dict[int, list[int]] = {}
    for place in sorted(random.Random(seed).sample(range(ends[-1]), min(count, ends[-1]))):
        number = bisect_right(ends, place)
        places.setdefault(parts[number], []).append(place - ends[number] + counts[parts[number]])
    output_ids, drawn = OutputIds(run), []
    columns = [*_COLUMNS, *(["reasoning"] if run.has_reasoning else [])]
    for part, numbers in places.items():
        rows = read_part(store, shard_path("data", part), columns).take(numbers)
        drawn += [DrawnRow(*row) for row in zip(output_ids.of(rows), [part] * len(rows), rows.to_pylist(), strict=True)]
    return sorted(drawn, key=lambda row: row.output_id), sum(counts.values()) - ends[-1]


def work_of(
    drawn: Sequence[DrawnRow], run: RunRecord, reader: InputRows, recipes: Mapping[str, Recipe]
) -> list[WorkRow]:
    """Returns what the run sent to its engines for the rows, in their order."""
    cursor = reader.cursor()
    work: list[WorkRow] = []
    for row in drawn:
        number = row.output_id // run.outputs_per_row
        work += rows_of_part(row.part, number, number + 1, {row.output_id}, run, cursor, recipes, {})
    return work

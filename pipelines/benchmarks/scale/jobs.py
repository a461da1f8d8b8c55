"""The job that the runs of `bench scale` share: short sentences on the fake engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.augmentation.plan import plan_run
from pipelines.inputs.reader import InputReader
from pipelines.recipes import all_fields, make_recipes, optional_fields
from schemas.augment import AugmentJob
from schemas.emotions import EMOTIONS
from schemas.job_parsing import parse_job
from schemas.run import RunRecord
from services.replicas.row_records import Recipe
from services.storage.store import ShardStore

_ROW_GROUP = 8192


@dataclass(frozen=True)
class OpenedJob:
    """A job with its recipes, its input and its run folder."""

    job: AugmentJob
    recipes: Mapping[str, Recipe]
    reader: InputReader
    store: ShardStore

    def plan(self) -> RunRecord:
        """Plans the run, or reads it where it is planned already."""
        return plan_run(self.store, self.job, self.recipes, self.reader.inputs, extend=False)


def write_contexts(path: Path, rows: int) -> None:
    """Writes an input of short sentences, each with one of the 28 emotions."""
    names = sorted(EMOTIONS)
    schema = pa.schema([("context", pa.string()), ("emotion", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _ROW_GROUP):
            numbers = range(start, min(start + _ROW_GROUP, rows))
            contexts = [f"The boat number {number} drifts down a quiet river." for number in numbers]
            emotions = [names[number * 13 % len(names)] for number in numbers]
            writer.write_table(pa.table([contexts, emotions], schema=schema))


def contexts_job(source: Path, folder: Path, rows_per_shard: int, **sections: Any) -> dict[str, Any]:
    """Returns a job over the input of `write_contexts`, on the fake engine."""
    return {
        "name": "scale",
        "input": {"path": str(source)},
        "recipe": "babylm_story",
        "model": {"id": "fake"},
        "output": {"path": str(folder), "rows_per_shard": rows_per_shard},
        "metrics": {"port": None},
        **sections,
    }


def open_job(job: dict[str, Any]) -> OpenedJob:
    """Validates a job and opens its input, as `augment` does."""
    parsed = parse_job(job, AugmentJob)
    recipes = make_recipes(parsed)
    reader = InputReader(parsed.input, all_fields(recipes), optional_fields(recipes))
    return OpenedJob(parsed, recipes, reader, ShardStore(parsed.output.path))

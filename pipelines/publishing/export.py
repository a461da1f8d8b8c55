"""`kindling export`: writes the accepted rows of a run as a dataset, ready for load_dataset and the Hub."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.publishing.dataset_card import dataset_card
from pipelines.run_folder import open_run, read_part, write_errors
from schemas.errors import RunError
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, ROW_SCHEMA
from services.storage.digest import ContentDigest
from services.storage.filesystem import resolve, write_atomic
from services.storage.shard_index import read_index
from services.storage.store import ShardStore, shard_path

# About 100 MB of stories in a file: few files for the Hub, and each fits in memory.
_ROWS_PER_FILE = 65_536


@dataclass(frozen=True)
class Exported:
    """Result of `export`.

    Attributes:
        to: the folder.
        files: data files, relative to the folder.
        rows: number of rows in all files.
        complete: True where the run had finished all its rows.
    """

    to: str
    files: list[str]
    rows: int
    complete: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def export(url: str, to: str, file_format: Literal["parquet", "jsonl"] = "parquet") -> Exported:
    """Copies the committed accepted rows of a run, in input order, with a dataset card.

    Args:
        url: the run folder.
        to: a new or empty folder; a local path or a URL.
        file_format: format of the data files.

    Raises:
        RunError: the folder `url` holds no run, a shard is damaged, or `to` is not empty or cannot be written.
    """
    store = ShardStore(url)
    run = open_run(store)
    fs, root = resolve(to, "--to")
    if fs.exists(root) and (not fs.isdir(root) or fs.ls(root)):
        raise RunError("--to", to, "it exists already, and is not an empty folder", "name a new or empty folder")
    outcomes = read_index(store, run).totals().outcomes
    files: list[str] = []
    rows, digest = 0, ContentDigest()
    with write_errors(to, "--to"):
        for number, table in enumerate(_tables(store)):
            name = f"data/train-{number:05d}.{file_format}"
            data = _ENCODERS[file_format](table)
            write_atomic(fs, f"{root}/{name}", data)
            digest.add(name, hashlib.sha256(data).hexdigest())
            files.append(name)
            rows += table.num_rows
        card = dataset_card(run, outcomes, f"data/*.{file_format}", str(digest))
        write_atomic(fs, f"{root}/README.md", card.encode())
    return Exported(to, files, rows, outcomes.counts.total() == run.outputs)


def _tables(store: ShardStore) -> Iterator[pa.Table]:
    """Yields the committed accepted rows, one table for each file.

    A run without rows gives one empty table, so that load_dataset finds the columns.
    """
    batches: list[pa.RecordBatch] = []
    waiting, tables = 0, 0
    for part in store.live_parts(ACCEPTED):
        added = read_part(store, shard_path(FOLDER_OF_STATE[ACCEPTED], part)).to_batches()
        batches += added
        waiting += sum(batch.num_rows for batch in added)
        while waiting >= _ROWS_PER_FILE:
            table = pa.Table.from_batches(batches, ROW_SCHEMA)
            yield table.slice(0, _ROWS_PER_FILE)
            tables += 1
            batches = table.slice(_ROWS_PER_FILE).to_batches()
            waiting -= _ROWS_PER_FILE
    if waiting or not tables:
        yield pa.Table.from_batches(batches, ROW_SCHEMA)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _jsonl(table: pa.Table) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False, default=lambda value: value.isoformat()) for row in table.to_pylist())
    return "".join(f"{line}\n" for line in lines).encode()


_ENCODERS = {"parquet": _parquet, "jsonl": _jsonl}

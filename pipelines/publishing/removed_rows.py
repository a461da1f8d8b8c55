"""Rows that `kindling dedup` removed from a run: read by each command that leaves them out.

Invariant: a file that is out of date is never used in part: its run has changed since, so the command is refused.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.dedup import DEDUP_KEY, DEDUP_PATH, DedupRecord
from schemas.errors import RunError
from schemas.rows import IDENTITY
from schemas.run import RunRecord
from schemas.text import plural
from services.storage.shard_index import read_index
from services.storage.store import ShardStore


@dataclass(frozen=True)
class RemovedRows:
    """Rows that `kindling dedup` removed from a run; none where it was not called.

    Attributes:
        identities: values of the columns IDENTITY of each row.
        by_rule: number of the rows by rule.
        digest: hash of the file; "" where there is none.
    """

    identities: frozenset[tuple[Any, ...]] = frozenset()
    by_rule: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""

    def without(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns the rows of a batch, which has the columns IDENTITY, that were not removed."""
        if not self.identities:
            return batch
        rows = zip(*(batch[name].to_pylist() for name in IDENTITY), strict=True)
        return batch.filter(pa.array([row not in self.identities for row in rows], pa.bool_()))

    def has(self, row: Mapping[str, Any]) -> bool:
        """Returns whether a row, which has the columns IDENTITY, was removed."""
        return bool(self.identities) and tuple(row[name] for name in IDENTITY) in self.identities

    def __str__(self) -> str:
        rules = ", ".join(f"{rows} {rule}" for rule, rows in self.by_rule.items() if rows)
        return f"{plural(len(self.identities), 'row')} that `kindling dedup` removed" + (f" ({rules})" if rules else "")


def read_removed_rows(store: ShardStore, run: RunRecord, key: str = "RUN") -> RemovedRows:
    """Reads the rows that `kindling dedup` removed from a run.

    Args:
        store: the run folder.
        run: its record.
        key: job key or argument that names the run, for errors.

    Raises:
        RunError: the run has changed since, or the file is damaged.
    """
    try:
        data = store.fs.cat_file(store.path(DEDUP_PATH))
    except FileNotFoundError:
        return RemovedRows()
    remedy = f"run `kindling dedup` again; or delete {store.path(DEDUP_PATH)} to take all rows"
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
        record = DedupRecord.model_validate_json((table.schema.metadata or {})[DEDUP_KEY])
        identities = frozenset(zip(*(table[name].to_pylist() for name in IDENTITY), strict=True))
    except (pa.ArrowException, OSError, KeyError, ValidationError):
        raise RunError(key, store.url, f"its {DEDUP_PATH} is damaged, or of another version", remedy) from None
    if record.content != read_index(store, run).digest():
        raise RunError(key, store.url, "it has changed since `kindling dedup` read it", remedy)
    return RemovedRows(identities, record.removed, hashlib.blake2b(data, digest_size=8).hexdigest())

"""The file of `kindling dedup`, dedup.parquet in a run folder: the rows that it removed, and its record."""

from typing import Any

import pyarrow as pa

from schemas.record import Record
from schemas.rows import IDENTITY, ROW_SCHEMA

DEDUP_PATH = "dedup.parquet"
DEDUP_KEY = b"kindling.dedup"
"""key of the record in the file's metadata"""

NEAR_DUPLICATE, COMMON_OPENING = "near_duplicate", "common_opening"
"""rules that remove rows: nearly the same words as an earlier row; an opening that too many rows have"""

DEDUP_SCHEMA = pa.schema(
    [
        *(ROW_SCHEMA.field(name) for name in IDENTITY),
        pa.field("rule", pa.string(), False, {"description": "rule that removed the row"}),
        pa.field("detail", pa.string(), False, {"description": "earlier row, common words, or opening"}),
    ]
)
"""columns of the removed rows: their identity, and why"""


class DedupRecord(Record):
    """Record of a `kindling dedup`."""

    format: int = 1
    """version of this record's layout"""
    content: str
    """digest of the committed shards that were read; the file is out of date where the run has another one"""
    created_at: str
    """time of the command: ISO 8601, UTC"""
    rows: int
    """number of accepted rows that were read"""
    removed: dict[str, int]
    """number of removed rows by rule"""
    settings: dict[str, Any]
    """options of the command, and the settings of the search for near-duplicates"""
    versions: dict[str, str]
    """versions of Kindling and of the libraries"""

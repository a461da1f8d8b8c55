"""Counts by key over a corpus of any size, exact and in bounded memory.

Invariant: the counts of a key are always summed in full. Keys are split into parts on disk by their hash, so all counts
of one key lie in the same part, and a part is small enough to be summed in memory.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

# Number of parts on disk. One part at a time is read, so the limit is this many times the counts held in memory.
_PARTS = 64


class Tally:
    """Sums the counts of equal keys. Counts beyond the limit go to disk, split by the hashes of their keys.

    Args:
        folder: a new local folder, which this makes; the owner of the folder above removes it.
        max_held: largest number of counts that are held in memory.
    """

    def __init__(self, folder: Path, max_held: int) -> None:
        self._folder, self._max_held = folder, max_held
        folder.mkdir()
        self._new: list[pl.DataFrame] = []
        self._new_rows = 0
        self._held: pl.DataFrame | None = None
        self._spills = 0

    def add(self, counts: pl.DataFrame) -> None:
        """Adds counts: a frame with a column `key`, further columns that are part of the key, and the count `rows`.

        Raises:
            OSError: the folder cannot be written.
        """
        self._new.append(counts)
        self._new_rows += counts.height
        # New frames are merged only now and then: merging for each frame would take quadratic time.
        if self._new_rows > self._max_held:
            self._merge()
            if self._held is not None and self._held.height > self._max_held:
                self._spill()

    def parts(self) -> Iterator[pl.DataFrame]:
        """Yields all counts in one or more frames; each key is in exactly one frame.

        Raises:
            OSError: the folder cannot be written.
        """
        self._merge()
        if not self._spills:
            if self._held is not None:
                yield self._held
            return
        self._spill()
        for part in range(_PARTS):
            if files := sorted(self._folder.glob(f"*-{part}.parquet")):
                yield _summed(pl.scan_parquet(files))

    def _merge(self) -> None:
        if self._new:
            held = [] if self._held is None else [self._held]
            self._held = _summed(pl.concat([*held, *self._new]).lazy())
            self._new, self._new_rows = [], 0

    def _spill(self) -> None:
        if self._held is None:
            return
        parts = self._held.with_columns(part=pl.col("key").hash() % _PARTS).partition_by(
            "part", include_key=False, as_dict=True
        )
        for (part,), counts in parts.items():
            counts.write_parquet(self._folder / f"{self._spills}-{part}.parquet", compression="lz4")
        self._spills += 1
        self._held = None


def _summed(counts: pl.LazyFrame) -> pl.DataFrame:
    return counts.group_by(pl.exclude("rows")).agg(pl.sum("rows")).collect(engine="streaming")

"""Counts by key over a corpus of any size: exact, and in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

# Of what is on disk one part at a time is held: this many times as much as memory takes is still counted.
_PARTS = 64


class Tally:
    """Sums the counts of equal keys. What memory does not take goes to disk, split by the keys' hashes.

    Args:
        folder: a local folder that is not there yet; whoever owns the one above removes it.
        most_held: counts of keys that are held in memory.
    """

    def __init__(self, folder: Path, most_held: int) -> None:
        self._folder, self._most_held = folder, most_held
        folder.mkdir()
        self._new: list[pl.DataFrame] = []
        self._new_rows = 0
        self._held: pl.DataFrame | None = None
        self._spills = 0

    def add(self, counts: pl.DataFrame) -> None:
        """Takes counts: columns `key`, any others that tell what it is counted for, and `rows`, the count.

        Raises:
            OSError: the folder cannot be written.
        """
        self._new.append(counts)
        self._new_rows += counts.height
        if self._new_rows > self._most_held:
            self._merge()
            if self._held is not None and self._held.height > self._most_held:
                self._spill()

    def parts(self) -> Iterator[pl.DataFrame]:
        """All counts in one or more frames, each key in one of them alone.

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

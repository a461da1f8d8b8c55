"""Splits of an export by input row: all texts that were made from one input row are in the same split."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import JobError

_MIN_INPUT_ROWS = 2


@dataclass(frozen=True)
class Split:
    """A split of the rows: those whose input row has a hash up to a limit, or those above it.

    Attributes:
        name: name of the split, as load_dataset shows it.
        seed: seed of the hash.
        limit: largest hash of the test rows; None where all rows are in this split.
    """

    name: str
    seed: int = 0
    limit: int | None = None

    def of(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Returns those of the rows that are in this split."""
        if self.limit is None:
            return rows
        is_test = pa.array([number <= self.limit for number in _hashes(rows, self.seed)], pa.bool_())
        return rows.filter(is_test if self.name == "test" else pc.invert(is_test))


def splits_of(rows: Iterable[pa.RecordBatch], test: float, seed: int) -> list[Split]:
    """Returns the splits of rows: `train`, and `test` where a share of the input rows goes there.

    The number of test rows is exact, and at least 1.

    Args:
        rows: all rows, with the columns `source` and `row_index`; they are read where there is a share.
        test: share of the input rows.
        seed: seed that chooses them.

    Raises:
        JobError: the share is not between 0 and 1, or there is one input row alone.
    """
    if not test:
        return [Split("train")]
    if not 0 < test < 1:
        raise JobError("--test", test, "not a share of the rows", "write it as 0.1, for a tenth of them")
    numbers = sorted({number for batch in rows for number in _hashes(batch, seed)})
    if len(numbers) < _MIN_INPUT_ROWS:
        raise JobError("--test", test, "one input row alone has accepted rows", "leave --test out, or wait for more")
    limit = numbers[min(max(round(len(numbers) * test), 1), len(numbers) - 1) - 1]
    return [Split("train", seed, limit), Split("test", seed, limit)]


def _hashes(rows: pa.RecordBatch, seed: int) -> list[int]:
    pairs = zip(rows["source"].to_pylist(), rows["row_index"].to_pylist(), strict=True)
    return [int.from_bytes(blake2b(repr((seed, *pair)).encode(), digest_size=8).digest(), "big") for pair in pairs]

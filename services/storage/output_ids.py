"""Which output of a run a finished row is: a number that counts input rows, and for each its samples and variants."""

import pyarrow as pa

from schemas.rows import IDENTITY
from schemas.run import RunRecord


class Units:
    """The units of a run.

    Args:
        run: with its inputs, samples and variants.
    """

    def __init__(self, run: RunRecord) -> None:
        self._samples, self._outputs_per_row, self._nowhere = run.samples, run.outputs_per_row, -run.outputs
        self._variants = {name: number for number, name in enumerate(run.variant_names)}
        self._first_rows, first = {}, 0  # of each source, among the rows of all
        for source in run.inputs:
            self._first_rows[source.source] = first
            first += source.rows

    def of(self, rows: pa.RecordBatch | pa.Table) -> list[int]:
        """The unit of each row; below 0 where its input or its variant is none of the run's."""
        columns = (rows[name].to_pylist() for name in IDENTITY)
        return [self._unit(*identity) for identity in zip(*columns, strict=True)]

    def row_of(self, unit: int) -> int:
        """The number of its input row, among the rows of all sources."""
        return unit // self._outputs_per_row

    def _unit(self, source: str, index: int, sample: int, variant: str) -> int:
        first, number = self._first_rows.get(source), self._variants.get(variant)
        if first is None or number is None:
            return self._nowhere
        return ((first + index) * self._samples + sample) * len(self._variants) + number

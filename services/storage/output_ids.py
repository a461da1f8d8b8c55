"""Which output of a run a finished row is: a number that counts input rows, and for each its samples and variants."""

import pyarrow as pa

from schemas.rows import IDENTITY
from schemas.run import RunRecord


class OutputIds:
    """Numbers of the outputs of a run.

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
        """Numbers of the outputs that `rows` are; below 0 where the run has no such input or variant."""
        columns = (rows[name].to_pylist() for name in IDENTITY)
        return [self._output_id(*identity) for identity in zip(*columns, strict=True)]

    def row_of(self, output_id: int) -> int:
        """Number of the input row that an output is made from, among the rows of all sources."""
        return output_id // self._outputs_per_row

    def _output_id(self, source: str, index: int, sample: int, variant: str) -> int:
        first, number = self._first_rows.get(source), self._variants.get(variant)
        if first is None or number is None:
            return self._nowhere
        return ((first + index) * self._samples + sample) * len(self._variants) + number

"""Number of each output in its run: it counts input rows, and within a row its samples and variants."""

import pyarrow as pa

from schemas.rows import IDENTITY
from schemas.run import RunRecord


class OutputIds:
    """Numbers of the outputs of a run.

    Args:
        run: the run's record with its inputs, samples and variants.
    """

    def __init__(self, run: RunRecord) -> None:
        self._samples, self._outputs_per_row = run.samples, run.outputs_per_row
        # Below 0 also after `row_of` divides it, so that the row lies in no shard.
        self._unknown = -run.outputs
        self._variants = {name: number for number, name in enumerate(run.variant_names)}
        # Number of each source's first row, counted through all sources.
        self._first_rows, first = {}, 0
        for source in run.inputs:
            self._first_rows[source.source] = first
            first += source.rows

    def of(self, rows: pa.RecordBatch | pa.Table) -> list[int]:
        """Number of each output in `rows`; negative if the run has no such input or variant."""
        columns = (rows[name].to_pylist() for name in IDENTITY)
        return [self._output_id(*identity) for identity in zip(*columns, strict=True)]

    def row_of(self, output_id: int) -> int:
        """Number of the input row that an output is made from, among the rows of all sources."""
        return output_id // self._outputs_per_row

    def _output_id(self, source: str, index: int, sample: int, variant: str) -> int:
        first, number = self._first_rows.get(source), self._variants.get(variant)
        if first is None or number is None:
            return self._unknown
        return ((first + index) * self._samples + sample) * len(self._variants) + number

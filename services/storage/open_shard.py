"""Rows of a shard that is not committed yet, in memory; the row log has them too.

Invariant: each output is kept once, whichever of its rows arrives first.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from services.storage.output_ids import OutputIds
from services.storage.row_log import RowLog

# Mean size from which the rows of a shard are put in order without copies.
_MIN_LARGE_ROW_BYTES = 64 << 10


@dataclass
class OpenShard:
    """Rows of a part (a shard, or the retry of one) that is not complete yet.

    Attributes:
        number: number of the part.
        start: first input row of the shard.
        end: input row after the last one.
        outputs: number of outputs that it will have.
        retried: numbers of its outputs, for a retry; None for a shard itself.
        batches: finished rows, in order of arrival, without those that were forgotten.
        output_ids: number of each row's output in the run, one array for each batch.
        seen: numbers of all finished outputs.
        bytes_in_memory: size of `batches`.
        is_whole_in_memory: false once rows were forgotten, which the log alone has then.
    """

    number: int
    start: int
    end: int
    outputs: int
    retried: set[int] | None = None
    batches: list[pa.RecordBatch] = field(default_factory=list)
    output_ids: list[np.ndarray] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    bytes_in_memory: int = 0
    is_whole_in_memory: bool = True

    @property
    def is_complete(self) -> bool:
        """True where all its outputs are finished."""
        return len(self.seen) == self.outputs

    def add(self, output_ids: list[int], batch: pa.RecordBatch) -> pa.RecordBatch:
        """Keeps the rows that have not arrived before, and returns them."""
        new = []
        for i, output_id in enumerate(output_ids):
            if output_id not in self.seen:
                self.seen.add(output_id)
                new.append(i)
        if len(new) < len(output_ids):
            batch = batch.take(pa.array(new, pa.int64()))
            output_ids = [output_ids[i] for i in new]
        self.output_ids.append(np.array(output_ids, dtype=np.int64))
        self.batches.append(batch)
        self.bytes_in_memory += batch.nbytes
        return batch

    def restore(self, log: RowLog, output_ids: OutputIds) -> None:
        """Adds the rows in the log of the part; rows of another part or run are ignored."""
        for batch in log.recover(self.number).to_batches():
            batch_output_ids = output_ids.of(batch)
            is_own = [
                self.start <= output_ids.row_of(output_id) < self.end
                and (self.retried is None or output_id in self.retried)
                for output_id in batch_output_ids
            ]
            if not all(is_own):
                batch = batch.filter(pa.array(is_own))
                batch_output_ids = [output_id for output_id, own in zip(batch_output_ids, is_own, strict=True) if own]
            self.add(batch_output_ids, batch)

    def forget_rows(self) -> None:
        """Frees the rows in memory."""
        self.batches, self.output_ids, self.bytes_in_memory = [], [], 0
        self.is_whole_in_memory = False

    def take_table(self, log: RowLog, output_ids: OutputIds) -> pa.Table:
        """Returns all rows in input order, and frees those in memory: until the shard is durable the log has them.

        Raises:
            OSError: the log no longer has the rows that were forgotten.
        """
        whole = self
        if not self.is_whole_in_memory:
            whole = OpenShard(self.number, self.start, self.end, self.outputs, self.retried)
            whole.restore(log, output_ids)
            if whole.seen != self.seen:
                raise OSError(f"the log of part {self.number} has lost rows while the job ran")
        # Rows finish in any order, but the layout of a shard depends on the input only.
        order = np.argsort(np.concatenate(whole.output_ids))
        table = pa.Table.from_batches(whole.batches)
        self.forget_rows()
        if table.nbytes < _MIN_LARGE_ROW_BYTES * table.num_rows:
            return table.take(pa.array(order))
        # `take` copies all rows twice, and Parquet would write 1,024 of them as one page.
        return pa.concat_tables([table.slice(i, 1) for i in order])

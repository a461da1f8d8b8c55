"""The order of commits of a job with `target_accepted`: input order, up to the shard by which enough rows are accepted.

Invariant: the committed shards are those of the first input rows, and the last of them is the first by which the target
is reached. So which rows are accepted depends on no order of arrival. (Shards that an earlier start without a target
committed count too; the gaps between them are filled.)
"""

from collections.abc import Iterable, Iterator

from schemas.rows import ACCEPTED
from schemas.run import Manifest, RunRecord
from services.storage.open_shard import OpenShard
from services.storage.parts import retry_of
from services.storage.shard_index import ShardIndex


class CommitOrder:
    """Decides which complete shards are committed, and when.

    Args:
        run: the run.
        index: the index of its committed shards.
        target: number of accepted rows to reach.
    """

    def __init__(self, run: RunRecord, index: ShardIndex, target: int) -> None:
        self._target, self._ends = target, {shard: end for shard, _, end in run.shard_ranges()}
        table = index.table().select(["shard", ACCEPTED])
        pairs = zip(*(column.to_pylist() for column in table.columns), strict=True)
        self._accepted = {shard: accepted for shard, accepted in pairs if not retry_of(shard)}
        self._sum = sum(self._accepted.values())
        self._complete: dict[int, OpenShard] = {}
        self._next = 0
        self._advance()

    @property
    def is_reached(self) -> bool:
        """True where the committed shards have enough accepted rows, and none before them is missing."""
        return self._sum >= self._target and len(self._accepted) == self._next

    @property
    def read_rows(self) -> int | None:
        """Number of input rows that the committed shards were made from, once the target is reached; None before."""
        return self._ends[self._next - 1] if self.is_reached else None

    def ready(self, complete: Iterable[OpenShard]) -> Iterator[OpenShard]:
        """Yields shards to commit now; each must be committed, and added, before the next one is taken.

        Args:
            complete: shards that became complete; those whose turn has not come are kept.
        """
        for shard in complete:
            if retry_of(shard.number):
                yield shard
            else:
                self._complete[shard.number] = shard
        while not self.is_reached and self._next in self._complete:
            yield self._complete.pop(self._next)

    def add(self, manifest: Manifest) -> None:
        """Counts a shard that was committed."""
        if not manifest.retry:
            self._accepted[manifest.shard] = manifest.counts[ACCEPTED]
            self._sum += manifest.counts[ACCEPTED]
            self._advance()

    def _advance(self) -> None:
        while self._next in self._accepted:
            self._next += 1

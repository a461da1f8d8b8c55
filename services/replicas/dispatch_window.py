"""Chooses which rows run next, so that prompts with the same beginning follow each other on one replica.

Invariant: every planned row is taken exactly once, unless it is put back; and a row waits at most for one turn of each
other prefix.

Why: the prompts of a corpus begin with one of a few blocks of examples (one block for each emotion, say). A KV cache
may be too small for all of them. In input order each block would then be computed again each time it occurs. With the
rows of one block together, the engine computes it once and finds it in its prefix cache afterwards.

Rows are reordered only while they wait here. Shards, and the order of rows in them, do not depend on it.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.rows import WorkRow

# Characters of the rows that wait here, and of those in one message to a replica: rows of a megabyte would else take
# gigabytes. One row more is held, or sent, where that is reached.
MAX_WINDOW_CHARACTERS = 64 << 20
MAX_BATCH_CHARACTERS = 8 << 20


@dataclass
class _Turn:
    """The prefix that a replica works on now.

    Attributes:
        prefix: key in the window's queues.
        rows_left: how many more rows the replica may take before the turn ends.
    """

    prefix: str
    rows_left: int


@dataclass
class _Batch:
    """Rows for one message.

    Attributes:
        max_rows: largest number of rows.
        rows: rows so far.
        characters: number of characters in their texts.
    """

    max_rows: int
    rows: list[WorkRow] = field(default_factory=list)
    characters: int = 0

    @property
    def is_full(self) -> bool:
        """True where no further row may be added."""
        return len(self.rows) >= self.max_rows or self.characters >= MAX_BATCH_CHARACTERS

    def add(self, row: WorkRow) -> int:
        """Adds a row, and returns the number of its characters."""
        self.rows.append(row)
        self.characters += (characters := row.characters)
        return characters


class DispatchWindow:
    """Looks ahead over the planned rows, and holds up to `size` of them, or fewer where they are large.

    A replica takes turns. In one turn it gets all rows of one prefix that wait when the turn begins. Its next prefix is
    the one that has waited longest and that no other replica works on. Rows of the same prefix keep their input order;
    so do all rows where the recipe knows no prefixes.

    Args:
        rows: rows to do, planned lazily.
        size: number of rows to look ahead.

    Attributes:
        size: number of rows to look ahead; may be changed at any time.
    """

    def __init__(self, rows: Iterator[WorkRow], size: int = 1) -> None:
        self.size = size
        self._rows = rows
        self._may_have_more = True
        # One queue for each prefix; the first prefix has waited longest.
        self._queues: OrderedDict[str, deque[WorkRow]] = OrderedDict()
        self._queued = 0
        self._queued_characters = 0
        self._turns: dict[int, _Turn] = {}
        self._replicas_at: Counter[str] = Counter()
        self._returned: deque[WorkRow] = deque()

    def take(self, replica: int, max_rows: int) -> list[WorkRow]:
        """Returns the next rows for a replica, in the order in which it should run them.

        Args:
            replica: number of the replica.
            max_rows: number of rows wanted; fewer are returned only where no more are left, or they are large.
        """
        batch = _Batch(max_rows)
        # Rows of dead replicas go first: their shards have waited longest.
        while self._returned and not batch.is_full:
            batch.add(self._returned.popleft())
        self._fill(max_rows - len(batch.rows))
        while self._queues and not batch.is_full:
            turn = self._turn_of(replica)
            queue = self._queues[turn.prefix]
            while turn.rows_left and queue and not batch.is_full:
                self._queued_characters -= batch.add(queue.popleft())
                turn.rows_left -= 1
                self._queued -= 1
            if not queue:
                del self._queues[turn.prefix]
            elif not turn.rows_left:
                # Rows of this prefix that were planned during the turn wait until every other prefix had its turn.
                # Otherwise a very common prefix would starve the others, and their shards would stay open.
                self._queues.move_to_end(turn.prefix)
        return batch.rows

    def put_back(self, rows: list[WorkRow]) -> None:
        """Takes back rows of a dead replica; they are the first to be taken again."""
        self._returned += rows

    def release(self, replica: int) -> None:
        """Ends the turn of a replica that died: its cache is gone, and another replica may work on its prefix."""
        if turn := self._turns.pop(replica, None):
            self._replicas_at[turn.prefix] -= 1
            if not self._replicas_at[turn.prefix]:
                del self._replicas_at[turn.prefix]  # a corpus may have as many prefixes as rows

    @property
    def is_empty(self) -> bool:
        """True where every planned row was taken and no more will be planned."""
        return not self._may_have_more and not self._queues and not self._returned

    def _fill(self, wanted: int) -> None:
        missing = max(self.size, wanted) - self._queued
        if not self._may_have_more or missing <= 0:
            return
        for _ in range(missing):
            if self._queued_characters >= MAX_WINDOW_CHARACTERS:
                return
            row = next(self._rows, None)
            if row is None:
                self._may_have_more = False
                return
            self._queues.setdefault(row.prefix, deque()).append(row)
            self._queued += 1
            self._queued_characters += row.characters

    def _turn_of(self, replica: int) -> _Turn:
        """Returns the turn that the replica is in, or begins its next one; some row must be queued."""
        turn = self._turns.get(replica)
        if turn and turn.rows_left and turn.prefix in self._queues:
            return turn
        self.release(replica)
        free = (prefix for prefix in self._queues if not self._replicas_at[prefix])
        # Where other replicas are at every prefix (all rows may have the same one), the oldest prefix is shared.
        prefix = next(free, next(iter(self._queues)))
        self._turns[replica] = turn = _Turn(prefix, len(self._queues[prefix]))
        self._replicas_at[prefix] += 1
        return turn

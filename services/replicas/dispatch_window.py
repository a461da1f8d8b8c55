"""The rows next to run, ordered so that prompts that begin alike follow each other on one replica.

Where the KV cache cannot hold all few-shot blocks of a corpus, a block is computed again each time it comes round. So
rows of one block run one after another, while they wait for dispatch; shards and their order know nothing of it.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from schemas.rows import WorkRow


@dataclass
class _Turn:
    """The prefix that a replica is at, and how many more rows of it are its own to take."""

    prefix: str
    rows: int


class DispatchWindow:
    """Looks ahead over the planned rows; holds at most `size` of them.

    A replica takes turns: all rows of one prefix that wait at that moment, then those of the prefix that has waited
    longest and that no other replica is at. So no row waits for more than one turn of each other prefix. Rows of one
    prefix, or of none, come in input order.

    Args:
        rows: the rows to do, planned lazily.

    Attributes:
        size: rows to look ahead; may be changed at any time.
    """

    def __init__(self, rows: Iterator[WorkRow], size: int = 1) -> None:
        self.size = size
        self._rows = rows
        self._planned = True
        self._waiting: OrderedDict[str, deque[WorkRow]] = OrderedDict()
        self._count = 0
        self._turns: dict[int, _Turn] = {}
        self._held: Counter[str] = Counter()
        self._returned: list[WorkRow] = []

    def take(self, replica: int, most: int) -> list[WorkRow]:
        """The next rows for a replica, in the order to run them; fewer than `most` only where no more are left."""
        taken = self._returned[:most]
        del self._returned[: len(taken)]
        self._fill(most - len(taken))
        while len(taken) < most and self._waiting:
            turn = self._turn(replica)
            waiting = self._waiting[turn.prefix]
            rows = min(turn.rows, len(waiting), most - len(taken))
            taken += [waiting.popleft() for _ in range(rows)]
            turn.rows -= rows
            self._count -= rows
            if not waiting:
                del self._waiting[turn.prefix]
            elif not turn.rows:
                self._waiting.move_to_end(turn.prefix)
        return taken

    def put_back(self, rows: list[WorkRow]) -> None:
        """Takes rows of a dead replica back; they go first."""
        self._returned += rows

    def forget(self, replica: int) -> None:
        """The replica is gone, and with it its cache: its prefix is free for others."""
        if turn := self._turns.pop(replica, None):
            self._held[turn.prefix] -= 1
            if not self._held[turn.prefix]:
                del self._held[turn.prefix]  # a corpus may have as many prefixes as rows

    @property
    def empty(self) -> bool:
        """Whether there is no row to give, and none to come."""
        return not self._planned and not self._waiting and not self._returned

    def _fill(self, wanted: int) -> None:
        missing = max(self.size, wanted) - self._count
        if not self._planned or missing <= 0:
            return
        fresh = 0
        for row in islice(self._rows, missing):
            fresh += 1
            self._waiting.setdefault(row.prefix, deque()).append(row)
        self._count += fresh
        self._planned = fresh == missing

    def _turn(self, replica: int) -> _Turn:
        turn = self._turns.get(replica)
        if turn and turn.rows and turn.prefix in self._waiting:
            return turn
        self.forget(replica)
        free = (prefix for prefix in self._waiting if not self._held[prefix])
        prefix = next(free, next(iter(self._waiting)))
        self._turns[replica] = turn = _Turn(prefix, len(self._waiting[prefix]))
        self._held[prefix] += 1
        return turn

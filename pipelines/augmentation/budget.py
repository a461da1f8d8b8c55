"""The budget of a run: what all its starts used, and when a start ends so that no limit is passed.

Invariant: used output tokens, and `max_tokens` for each row in flight, are together never above `budget.tokens`.

For hours and cost no row is sent once the time that is left is shorter than recent rows took; rows that are still in
flight at the limit are given up, and the next start generates them.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.augmentation.progress import AugmentProgress
from schemas.augment import AugmentJob
from schemas.errors import BudgetError
from schemas.row_programs import all_tokens
from schemas.rows import FinishedRows
from schemas.run import RunRecord
from schemas.text import format_amount
from services.replicas.replica_pool import ReplicaPool
from services.storage.shard_index import read_index
from services.storage.shard_writer import read_logged_rows
from services.storage.store import ShardStore

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Spent:
    """One limit of a budget, and how much of it is used.

    Attributes:
        key: `budget.tokens`, `budget.hours` or `budget.cost`.
        unit: noun of the amounts; empty for a cost, whose currency is not known.
    """

    key: str
    limit: float
    used: float
    unit: str

    @property
    def left(self) -> float:
        """Amount that is left; 0 where the limit was lowered below what is used."""
        return max(self.limit - self.used, 0.0)

    def amount(self, value: float) -> str:
        """Formats an amount with its unit: `1,873 output tokens`."""
        return f"{format_amount(value)} {self.unit}".rstrip()


def list_spent(job: AugmentJob, output_tokens: int, replica_seconds: float) -> Iterator[Spent]:
    """Yields each limit that the job has, with what its run used so far."""
    budget, hours = job.budget, replica_seconds / _SECONDS_PER_HOUR
    if budget.tokens is not None:
        yield Spent("budget.tokens", budget.tokens, output_tokens, "output tokens")
    if budget.hours is not None:
        yield Spent("budget.hours", budget.hours, hours, "replica-hours")
    if budget.cost is not None:
        yield Spent("budget.cost", budget.cost, hours * (job.cluster.price_per_replica_hour or 0), "")


def list_spent_on_disk(job: AugmentJob, run: RunRecord) -> list[Spent]:
    """Lists each limit of a job with what earlier starts used; reads the run folder only where there is a limit."""
    if job.budget.is_empty:
        return []
    store = ShardStore(job.output.path)
    index = read_index(store, run)
    logged = read_logged_rows(store, run, index.committed)
    tokens = index.totals().output_tokens + sum(all_tokens(rows, "output_tokens") for rows in logged)
    return list(list_spent(job, tokens, run.replica_seconds))


class RunBudget:
    """Watches the budget during one start.

    Args:
        job: the job.
        progress: counts of the run, with those of its earlier starts.
    """

    def __init__(self, job: AugmentJob, progress: AugmentProgress) -> None:
        self._job, self._progress = job, progress
        self._tokens = progress.output_tokens
        self._row_tokens = job.max_row_tokens
        budget, price = job.budget, job.cluster.price_per_replica_hour
        hours = [budget.hours] if budget.hours is not None else []
        if budget.cost is not None and price:  # at a price of 0 there is no limit
            hours.append(budget.cost / price)
        self._max_seconds = min(hours, default=math.inf) * _SECONDS_PER_HOUR
        self._seconds_left = math.inf
        self.is_used_up = False

    def max_in_flight(self) -> int:
        """Returns the number of rows that may be in flight together."""
        limit = self._job.budget.tokens
        return sys.maxsize if limit is None else max(limit - self._tokens, 0) // self._row_tokens

    def on_finished(self, finished: FinishedRows) -> None:
        """Counts rows as soon as they are no longer in flight; the writer counts them later."""
        if self._job.budget.tokens is not None:
            self._tokens += all_tokens(finished.batch, "output_tokens")

    def update(self, pool: ReplicaPool) -> None:
        """Computes how long the replicas that are there now may go on; called several times a second."""
        if math.isinf(self._max_seconds):
            return
        paid = sum(member.is_paid for member in pool.members)
        self._seconds_left = max(self._max_seconds - self._progress.replica_seconds, 0.0) / max(paid, 1)
        if self._seconds_left <= self._progress.longest_row_seconds():
            self.is_used_up = True

    def stop_within(self) -> float | None:
        """Returns None while more rows may be sent, then the seconds in which rows in flight may still finish."""
        if self.max_in_flight() == 0:
            self.is_used_up = True
        return self._seconds_left if self.is_used_up else None

    def refuse_if_used_up(self) -> None:
        """Ends a start before its engines begin to cost.

        Raises:
            BudgetError: earlier starts used the budget up.
        """
        if self.max_in_flight() == 0 or self._progress.replica_seconds >= self._max_seconds:
            raise self.error()

    def error(self) -> BudgetError:
        """Makes the error of a start that ends since the budget is used up."""
        spent = list(list_spent(self._job, self._tokens, self._progress.replica_seconds))
        # The limit that ended the start is the one of which the smallest share is left.
        tightest = min(spent, key=lambda part: part.left / part.limit)
        if self.max_in_flight() == 0:
            tightest = next(part for part in spent if part.key == "budget.tokens")
        row = f", and one more row may take {self._row_tokens:,}" if tightest.key == "budget.tokens" else ""
        progress = self._progress
        return BudgetError(
            tightest.key, format_amount(tightest.limit),
            f"{tightest.amount(tightest.used)} are used{row}; {progress.finished} of {progress.total} "
            "rows are finished and kept",
            f"raise {tightest.key} (in the job file, or with --set), and the same command goes on",
        )  # fmt: skip

"""Result of a finished `augment`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.augmentation.progress import AugmentProgress
from pipelines.result import Result, rows_of_run
from pipelines.run_folder import open_run
from schemas.outcomes import by_frequency
from schemas.rows import STATES
from services.storage.store import ShardStore

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Summary(Result):
    """Result of a finished `augment`.

    Attributes:
        rows: number of rows of the whole run, by state.
        cut_off: number of accepted rows of the run whose text was cut off.
        rejects: rejected rows of the run by rule, the commonest first.
        errors: failed rows of the run by reason, the commonest first, with N in place of numbers.
        shards: number of committed shards of the run.
        output_tokens: number of output tokens of the run.
        generated: number of rows that this start generated; earlier starts generated the others.
        serving_seconds: seconds from the moment when the first engine of this start was up until the last row was
            durable.
        tokens_per_second: output tokens of accepted rows a second, over `serving_seconds`.
        coordinator_seconds: processor time of the thread that sends rows to replicas and receives them.
        writer_seconds: processor time of the thread that logs and commits rows.
        tries: tries that were not the last one of their row, by the rule that rejected them, the commonest first.
    """

    run: str
    rows: dict[str, int]
    cut_off: int
    rejects: dict[str, int]
    errors: dict[str, int]
    shards: int
    output_tokens: int
    generated: int
    serving_seconds: float
    tokens_per_second: float
    coordinator_seconds: float
    writer_seconds: float
    tries: dict[str, int] = field(default_factory=dict)

    def to_polars(self) -> "polars.DataFrame":
        """Returns the accepted rows of the run, in input order, as a polars data frame."""
        return rows_of_run(self.run, open_run(ShardStore(self.run)).schema)


def summary_of(run: str, progress: AugmentProgress) -> Summary:
    """Returns the result of a start, given the run folder and the progress at its end."""
    return Summary(
        run=run,
        rows={state: progress.rows[state] for state in STATES},
        cut_off=progress.outcomes.cut_off,
        rejects=by_frequency(progress.outcomes.rejects),
        errors=by_frequency(progress.outcomes.errors),
        shards=progress.shards,
        output_tokens=progress.output_tokens,
        generated=progress.generated_here,
        serving_seconds=round(progress.serving_seconds, 3),
        tokens_per_second=round(progress.goodput(), 1),
        coordinator_seconds=round(progress.coordinator_seconds, 3),
        writer_seconds=round(progress.writer_seconds, 3),
        tries=by_frequency(progress.outcomes.tries),
    )

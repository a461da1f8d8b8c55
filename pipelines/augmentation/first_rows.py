"""Ends a job whose first rows all fail, since what is wrong is the job.

It ends before engines start where no row has a prompt, or once they have refused the first rows for one reason.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, islice

from pipelines.inputs.reader import InputRows, RowCursor
from schemas.errors import EngineError, JobError
from schemas.outcomes import by_frequency, error_group
from schemas.rows import ERROR, FinishedRows, RowError, RowRejection, WorkRow
from schemas.run import RunRecord
from schemas.text import plural
from services.replicas.row_records import VariantSettings

# So many rows from the first on; and where all of them fail, about as many from all over the input.
_MAX_ROWS = 100
_MAX_REASONS = 3
# A run ends early where as many rows, the first of its input, all fail in the engine.
_MIN_FAILED = 64


def refuse_rows_without_prompts(
    run: RunRecord, reader: InputRows, variants: Mapping[str, VariantSettings], committed: Collection[int]
) -> None:
    """Renders rows of uncommitted shards with each prompt, until one row has a prompt or a rule rejects it.

    Raises:
        JobError: a prompt fails on all rows that were tried.
    """
    for settings in {id(settings.recipe): settings for settings in variants.values()}.values():
        reasons: Counter[str] = Counter()
        cursor = reader.cursor()
        for number in _numbers(run, committed):
            reason = _failure(cursor, settings, number)
            if not reason:
                break
            reasons[error_group(reason)] += 1
        else:
            if reasons:
                raise _no_prompt_error(settings, reasons)


class FirstRows:
    """The first rows that have a prompt, and whether each of them failed in its engine for the same reason.

    Args:
        variants: settings of each variant.
        is_first_start: whether no row of the run is finished. Else nothing is watched: whoever starts the job again
            wants the other rows.

    Attributes:
        have_failed: whether all of them failed.
    """

    def __init__(self, variants: Mapping[str, VariantSettings], is_first_start: bool) -> None:
        self._variants = variants
        self._watched: set[int] = set()
        self._max_rows = _MIN_FAILED if is_first_start else 0
        self._reasons: Counter[str] = Counter()
        self.have_failed = False

    def watch(self, rows: Iterable[WorkRow]) -> Iterator[WorkRow]:
        """Yields all rows, and remembers the first ones that have a prompt."""
        for row in rows:
            if len(self._watched) < self._max_rows and _has_prompt(row, self._variants[row.variant]):
                self._watched.add(row.output_id)
            yield row

    def on_finished(self, finished: FinishedRows) -> None:
        """Counts watched rows that ended; does nothing more once one did not fail, or failed for another reason."""
        if not self._max_rows:
            return
        batch = finished.batch
        ended = zip(finished.output_ids, batch["state"].to_pylist(), batch["reason"].to_pylist(), strict=True)
        self._reasons.update(
            error_group(reason) if state == ERROR else "" for number, state, reason in ended if number in self._watched
        )
        self.have_failed = "" not in self._reasons and list(self._reasons.values()) == [_MIN_FAILED]
        if self.have_failed or "" in self._reasons or len(self._reasons) > 1:
            self._max_rows = 0

    def error(self) -> EngineError:
        """Makes the error of a start that ends since its first rows failed."""
        ((reason, rows),) = self._reasons.items()
        cause = f"each of the first {rows} rows failed, for the same reason: {reason}"
        remedy = (
            "correct what it names. A job that changes thereby needs another output.path; one that does not goes on "
            "with the other rows, and --retry errors then generates these again"
        )
        return EngineError("", None, cause, remedy)


def _numbers(run: RunRecord, committed: Collection[int]) -> Iterator[int]:
    """Yields numbers of input rows: the first ones, then some from all over the input."""
    ranges = [range(start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    rows = sum(map(len, ranges))
    yield from islice(chain.from_iterable(ranges), _MAX_ROWS)
    yield from islice(chain.from_iterable(ranges), _MAX_ROWS, None, max(rows // _MAX_ROWS, 1))


def _has_prompt(row: WorkRow, settings: VariantSettings) -> bool:
    try:
        return not row.refused and bool(settings.recipe.render(row.values or {}, settings.seed_of(row)))
    except Exception:  # a replica makes a failed or rejected row of it
        return False


def _failure(cursor: RowCursor, settings: VariantSettings, number: int) -> str:
    """Returns the reason why a row has no prompt; "" where it has one, or a rule rejects it."""
    ((source, index, row),) = cursor.rows(number, number + 1)
    if row.values is None:
        return row.fault
    try:
        settings.recipe.render(row.values, settings.seed_of(WorkRow(0, 0, source, index, 0, row.values)))
    except RowRejection:
        return ""
    except RowError as error:
        return str(error)
    except Exception as error:  # a replica makes a failed row of it, too
        return f"{type(error).__name__}: {error}"
    return ""


def _no_prompt_error(settings: VariantSettings, reasons: Counter[str]) -> JobError:
    commonest = list(by_frequency(reasons).items())[:_MAX_REASONS]
    listed = "".join(f"\n    {rows} x {reason}" for reason, rows in commonest)
    cause = f"none of the {plural(reasons.total(), 'row')} that were tried has a prompt:{listed}"
    remedy = "correct input.columns, the prompt, or the input; no engine was started, and no row is done"
    return JobError("recipe", settings.recipe.prompt_id, cause, remedy)

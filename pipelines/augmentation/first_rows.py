"""Refuses a job whose first rows have no prompt: what is wrong is the job, and no engine needs to start to tell it."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice

from pipelines.inputs.reader import InputRows, RowCursor
from schemas.errors import JobError
from schemas.outcomes import by_frequency, error_group
from schemas.rows import RowError, RowRejection, WorkRow
from schemas.run import RunRecord
from schemas.text import plural
from services.replicas.row_records import VariantSettings

# So many rows from the first on; and where all of them fail, about as many from all over the input.
_MAX_ROWS = 100
_MAX_REASONS = 3


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


def _numbers(run: RunRecord, committed: Collection[int]) -> Iterator[int]:
    """Yields numbers of input rows: the first ones, then some from all over the input."""
    ranges = [range(start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    rows = sum(map(len, ranges))
    yield from islice(chain.from_iterable(ranges), _MAX_ROWS)
    yield from islice(chain.from_iterable(ranges), _MAX_ROWS, None, max(rows // _MAX_ROWS, 1))


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

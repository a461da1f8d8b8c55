"""The target of a run: it ends once so many rows are accepted."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from schemas.rows import ACCEPTED
from schemas.run import RunRecord

if TYPE_CHECKING:  # `kindling status` needs no schema of jobs, which takes a tenth of its time
    from schemas.augment import AugmentJob

# More rows than the acceptance so far asks for, so that engines do not run empty while the last ones are judged.
_SURPLUS = 1.1


def rows_left(outputs: int, target: int | None, rows: Mapping[str, int]) -> int:
    """Returns the number of rows that are left to generate: all, or those that the target still needs.

    Args:
        outputs: number of rows of the whole run.
        target: number of accepted rows at which the run ends; None for no target.
        rows: finished rows by state.
    """
    finished = sum(rows.values())
    left = outputs - finished
    if target is None or not rows.get(ACCEPTED):
        return left
    return min(left, math.ceil(max(target - rows[ACCEPTED], 0) * finished / rows[ACCEPTED]))


def max_in_flight(job: "AugmentJob", run: RunRecord, rows: Mapping[str, int]) -> int:
    """Returns the number of rows that may be in flight, so that few are generated behind the target.

    Args:
        job: the job.
        run: its run.
        rows: finished rows by state.
    """
    if job.target_accepted is None:
        return sys.maxsize
    # The shard by which the target is reached must become complete, whatever the acceptance.
    shard = run.rows_per_shard * run.outputs_per_row
    return max(shard, math.ceil(_SURPLUS * rows_left(run.outputs, job.target_accepted, rows)))

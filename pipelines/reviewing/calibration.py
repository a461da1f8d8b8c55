"""Calibration of a job's judges: do people accept as many texts as the judges' probabilities say?

Method: the expected calibration error. Rows are put into bins by the judge's value, a probability; in each bin the mean
value is compared with the share that people accept, and the differences are averaged by the bins' sizes in the run. A
value that is always right on average has the error 0. Few rows give an error above 0 by chance alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.stratified import Estimate, Stratum, calibration_error, estimate
from pipelines.publishing.card_verdicts import judges_of
from pipelines.run_folder import read_part
from schemas.review import ReviewedRow, text_sha256
from schemas.rows import ACCEPTED, IDENTITY, REJECTED
from schemas.run import RunRecord
from services.storage.store import ShardStore

BINS = 5
"""number of bins of equal width"""
MIN_ROWS = 30
"""number of judged rows below which nothing is said"""


@dataclass(frozen=True)
class Calibration:
    """A judge's values beside the verdicts of people.

    Attributes:
        judge: name of the generation.
        rows: number of judged rows that have a value.
        bins: number of bins.
        value: mean value of such rows of the run: the share that people would accept if it were calibrated.
        accepted: share of them that people accept.
        error: expected calibration error, 0 to 1.
    """

    judge: str
    rows: int
    bins: int
    value: float
    accepted: float
    error: Estimate


Group = tuple[int, Sequence[ReviewedRow]]
"""number of rows of a group of the run, and those of them that people judged"""


def calibrations(store: ShardStore, run: RunRecord, groups: Sequence[Group]) -> list[Calibration]:
    """Returns the calibration of each judge whose value says how good a text is, and that enough rows have.

    A judge that compares two texts, or with a condition of its own (`reject_when`), is left out.

    Args:
        store: the run folder.
        run: its record.
        groups: groups of its rows.

    Raises:
        RunError: a shard is damaged.
    """
    judges = [each.name for each in judges_of(run) if not each.compare and each.reject_when is None]
    if not judges:
        return []
    scores = _scores(store, {row.identity: row.text_sha256 for _, rows in groups for row in rows})
    measured = [_calibration(judge, groups, scores) for judge in judges]
    return [each for each in measured if each is not None]


def _scores(store: ShardStore, judged: Mapping[tuple[Any, ...], str]) -> dict[tuple[Any, ...], dict[str, float]]:
    """Returns the scores of rows by their identity; of rows whose text is still the one that people read."""
    scores: dict[tuple[Any, ...], dict[str, float]] = {}
    for state in (ACCEPTED, REJECTED):
        for part in store.live_parts(state):
            if (path := store.file_of(part, state)) is None:
                continue
            table = read_part(store, path, [*IDENTITY, "text", "scores"])
            for number, identity in enumerate(zip(*(table[name].to_pylist() for name in IDENTITY), strict=True)):
                digest = judged.get(identity)
                if digest is not None and text_sha256(table["text"][number].as_py()) == digest:
                    scores[identity] = json.loads(table["scores"][number].as_py() or "{}")
    return scores


def _calibration(
    judge: str, groups: Sequence[Group], scores: Mapping[tuple[Any, ...], Mapping[str, float]]
) -> Calibration | None:
    strata, weights, values, shares = [], [], [], []
    for size, rows in groups:
        # The last outcome is that of rows without a value: the judge was not asked, or the text changed since.
        counts = np.zeros((BINS + 1, 2))
        for row in rows:
            value = scores.get(row.identity, {}).get(judge)
            accepted = sum(each.verdict == ACCEPTED for each in row.judgements) / len(row.judgements)
            counts[_bin(value)] += accepted, 1 - accepted
            if value is not None:
                weights.append(size / len(rows))
                values.append(value)
                shares.append(accepted)
        strata.append(Stratum(size, counts))
    if len(values) < MIN_ROWS:
        return None
    numbers = np.array([_bin(value) for value in values])
    means = [
        np.average(np.array(values)[numbers == number], weights=np.array(weights)[numbers == number])
        if (numbers == number).any()
        else (number + 0.5) / BINS
        for number in range(BINS)
    ]
    error = estimate(strata, calibration_error(means), n=len(values))
    mean_value, accepted = (float(np.average(each, weights=weights)) for each in (values, shares))
    return None if error is None else Calibration(judge, len(values), BINS, mean_value, accepted, error)


def _bin(value: float | None) -> int:
    return BINS if value is None else min(int(value * BINS), BINS - 1)

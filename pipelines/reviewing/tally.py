"""Counts what people said of the rows of a review: how many they accept, whether they agree, what the checks are worth.

Each group of rows (accepted, or rejected by one rule) counts by its size in the run, since rare groups were drawn more
often (`eval.stratified` has the method). A row that several people judged counts as the share of them that accepted it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from eval.stratified import Estimate, Stratum, agreement, cohen_kappa, estimate, share_of
from pipelines.inputs.file_choice import returned_files
from pipelines.publishing.run_card import RunCard
from pipelines.result import Result, flat
from pipelines.reviewing.calibration import Calibration, calibrations
from pipelines.reviewing.returned import RETURNED, read_files, reviewed_rows
from pipelines.reviewing.verdicts import read_keys, save_verdicts
from pipelines.run_folder import open_run, write_errors
from schemas.errors import JobError, RunError
from schemas.review import DIVIDED, ReturnedReview, ReviewedRow, ReviewGroup, ReviewKey, ReviewVerdicts, review_path
from schemas.rows import ACCEPTED, REJECTED
from schemas.run import RunRecord
from services.storage.shard_index import read_index
from services.storage.store import ShardStore

ALL_CHECKS = "all"
"""name, among the checks, of all of them together"""
NO_REASON = "none given"


@dataclass(frozen=True)
class Check:
    """A rule of the run, beside what people say of the rows.

    Attributes:
        rule: name of the rule; ALL_CHECKS for all rules together.
        rows: number of rows of the run that it rejected, and that have a text.
        judged: number of these that somebody judged.
        precision: share of the rows that it rejected which people reject too; None where nobody judged one.
        recall: share of the rows that people reject which it rejected, as the first rule that did; None where people
            reject none, or nobody judged a row that the run accepted.
    """

    rule: str
    rows: int
    judged: int
    precision: Estimate | None
    recall: Estimate | None


@dataclass(frozen=True)
class Reviewer:
    """Reviewer, and the number of rows by verdict.

    Attributes:
        reviewer: id that the page drew.
        file: the returned file.
        accepted, rejected: number of rows.
        blank: number of rows without a verdict.
    """

    reviewer: str
    file: str
    accepted: int
    rejected: int
    blank: int


@dataclass(frozen=True)
class Pair:
    """Agreement of two reviewers.

    Attributes:
        first, second: their ids.
        rows: number of rows that both judged.
        agreement: share of the run's rows on which they agree.
        kappa: Cohen's kappa; None where both gave one and the same verdict to all rows.
    """

    first: str
    second: str
    rows: int
    agreement: Estimate | None
    kappa: Estimate | None


@dataclass(frozen=True)
class ReviewTally(Result):
    """Result of `tally_review`. Shares are of the rows of the run that have a text.

    Attributes:
        run: the run folder.
        review: sha256 of the review, as in its key.
        verdicts: path of the verdicts, which are kept with the run.
        rows: number of rows on the page.
        judged: number of these that somebody judged.
        divided: number of these that as many people accepted as rejected.
        reviewers: the reviewers.
        left_out: groups of rows of which nobody judged a row: no figure counts them.
        accepted: share that people accept: of `all` rows, of those that the run `accepted`, of those it `rejected`.
        pairs: agreement of each two reviewers.
        checks: rules of the run, all together first.
        judges: calibration of the judges of the run; none where too few rows have their values.
        reasons: number of times that a reason was given for rejecting, by the state of the row in the run.
    """

    run: str
    review: str
    verdicts: str
    rows: int
    judged: int
    divided: int
    reviewers: list[Reviewer]
    left_out: list[dict[str, Any]]
    accepted: dict[str, Estimate | None]
    pairs: list[Pair]
    checks: list[Check]
    judges: list[Calibration]
    reasons: dict[str, dict[str, int]]

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each check."""
        return [flat(asdict(check)) for check in self.checks]


def tally_review(url: str, returned: Sequence[str]) -> ReviewTally:
    """Counts the files that reviewers sent back, and keeps their verdicts with the run.

    Args:
        url: the run folder.
        returned: paths, URLs or globs of all files that were returned of one review.

    Raises:
        JobError: a file cannot be read, is none that the page saved, is of another run or another review, or of the
            same reviewer as another one; nobody judged a row; or verdicts that were counted before are missing.
        RunError: the folder `url` holds no run, or the run no review; or it cannot be written.
    """
    store = ShardStore(url)
    run = open_run(store)
    keys = read_keys(store)
    if not keys:
        raise RunError("RUN", url, "it has no review yet", "write one: kindling review RUN --to review.html")
    paths = returned_files(RETURNED, returned)
    key, files = read_files(store, keys, paths)
    rows = reviewed_rows(key, files)
    if not rows:
        raise JobError(RETURNED, None, "nobody judged a row in any of the files", "name files with verdicts")
    reviewers = [_reviewer(file, path) for file, path in zip(files, paths, strict=True)]
    tally = _tally(store, run, key, rows, reviewers)
    saved_at = {file.respondent: file.saved_at for file in files}
    figures = {name: value for name, value in tally.as_json().items() if name in ("accepted", "pairs")}
    verdicts = {"review": key.review, "reviewers": saved_at, "rows": rows, **figures}
    save_verdicts(store, ReviewVerdicts.model_validate(verdicts))
    index = read_index(store, run)
    with write_errors(store.path("README.md"), "RUN"):
        RunCard(store, run, index, index.totals().outcomes).renew()
    return tally


def _reviewer(file: ReturnedReview, path: str) -> Reviewer:
    counts: Counter[str | None] = Counter(answer.verdict for answer in file.answers)
    return Reviewer(file.respondent, path, counts[ACCEPTED], counts[REJECTED], counts[None])


_Rows = Mapping[int, list[ReviewedRow]]
"""judged rows by the number of their group in the key"""


def _tally(
    store: ShardStore, run: RunRecord, key: ReviewKey, rows: list[ReviewedRow], reviewers: list[Reviewer]
) -> ReviewTally:
    group_numbers = {(group.state, group.rule): number for number, group in enumerate(key.groups)}
    by_group: dict[int, list[ReviewedRow]] = defaultdict(list)
    for row in rows:
        by_group[group_numbers[row.state, row.rule]].append(row)
    groups = {number: key.groups[number] for number in sorted(by_group)}
    strata = {number: Stratum(group.rows, _counts(by_group[number])) for number, group in groups.items()}

    def accepted(*states: str) -> Estimate | None:
        chosen = [strata[number] for number, group in groups.items() if group.state in states]
        return estimate(chosen, share_of(0)) if chosen else None

    reasons: dict[str, Counter[str]] = {ACCEPTED: Counter(), REJECTED: Counter()}
    for row in rows:
        given = (judgement.reason or NO_REASON for judgement in row.judgements if judgement.verdict == REJECTED)
        reasons[row.state].update(given)
    return ReviewTally(
        run=store.url,
        review=key.review,
        verdicts=f"{store.url.rstrip('/')}/{review_path(key.review)}",
        rows=len(key.rows),
        judged=len(rows),
        divided=sum(row.verdict == DIVIDED for row in rows),
        reviewers=reviewers,
        left_out=[group.model_dump() for number, group in enumerate(key.groups) if number not in groups],
        accepted={"all": accepted(ACCEPTED, REJECTED), ACCEPTED: accepted(ACCEPTED), REJECTED: accepted(REJECTED)},
        pairs=[_pair(groups, by_group, one.reviewer, two.reviewer) for one, two in combinations(reviewers, 2)],
        checks=_checks(key, groups, strata),
        judges=calibrations(store, run, [(group.rows, by_group[number]) for number, group in groups.items()]),
        reasons={state: dict(counts.most_common()) for state, counts in reasons.items()},
    )


def _counts(rows: list[ReviewedRow]) -> np.ndarray:
    """Returns the number of rows that people accepted, and that they rejected."""
    accepted = sum(
        sum(judgement.verdict == ACCEPTED for judgement in row.judgements) / len(row.judgements) for row in rows
    )
    return np.array([accepted, len(rows) - accepted])


def _pair(groups: Mapping[int, ReviewGroup], by_group: _Rows, first: str, second: str) -> Pair:
    strata, common = [], 0
    for number, group in groups.items():
        table = np.zeros((2, 2))
        for row in by_group[number]:
            verdict = {judgement.reviewer: judgement.verdict for judgement in row.judgements}
            if first in verdict and second in verdict:
                table[int(verdict[first] == REJECTED), int(verdict[second] == REJECTED)] += 1
        if table.any():
            strata.append(Stratum(group.rows, table))
            common += int(table.sum())
    if not strata:
        return Pair(first, second, 0, None, None)
    return Pair(first, second, common, estimate(strata, agreement), estimate(strata, cohen_kappa))


def _checks(key: ReviewKey, groups: Mapping[int, ReviewGroup], strata: Mapping[int, Stratum]) -> list[Check]:
    """Returns precision and recall of all rules together, and of each."""
    rejecting = [number for number, group in enumerate(key.groups) if group.state == REJECTED]
    is_accepted_judged = all(number in groups for number in range(len(key.groups)) if number not in rejecting)

    def check(rule: str, numbers: list[int]) -> Check:
        judged = [number for number in numbers if number in groups]
        of_rule = [position for position, number in enumerate(groups) if number in numbers]
        return Check(
            rule,
            sum(key.groups[number].rows for number in numbers),
            sum(int(strata[number].counts.sum()) for number in judged),
            estimate([strata[number] for number in judged], share_of(1)) if judged else None,
            estimate(list(strata.values()), lambda totals: totals[:, of_rule, 1].sum(1) / totals[:, :, 1].sum(1))
            if judged and is_accepted_judged
            else None,
        )

    each = [check(key.groups[number].rule, [number]) for number in rejecting]
    return [check(ALL_CHECKS, rejecting), *each] if rejecting else []

"""Tables of a review's tally, and lines on what no figure counts."""

from collections.abc import Iterator, Sequence

from eval.stratified import Estimate
from pipelines.pages.tables import Figure, Table
from pipelines.reviewing.tally import ALL_CHECKS, ReviewTally
from schemas.review import REASONS
from schemas.rows import ACCEPTED, REJECTED
from schemas.text import plural, printable

_SHARE_OF = {"all": "all rows with a text", ACCEPTED: "rows that the run accepted", REJECTED: "rows that it rejected"}
_STATES = (ACCEPTED, REJECTED)
_INTERVALS = (
    "Each figure is of the run's rows: a group (accepted, or rejected by one rule) counts by its size in the run, not "
    "in the sample. 95% intervals for rows like these and these reviewers, from the posterior of each group's share."
)

_Row = Sequence[str | Figure]


def tally_lines(tally: ReviewTally) -> Iterator[str]:
    """Yields lines on the reviewers, and on rows that no figure counts."""
    yield f"{plural(tally.judged, 'row')} of {tally.rows} judged by {plural(len(tally.reviewers), 'reviewer')}"
    for each in tally.reviewers:
        name = each.file.rpartition("/")[2]
        blank = f", {each.blank} left blank" if each.blank else ""
        yield f"  {each.reviewer[:8]} ({printable(name)}): {each.accepted} accepted, {each.rejected} rejected{blank}"
    if tally.divided:
        yield f"divided: {plural(tally.divided, 'row')}, which as many accepted as rejected"
    for group in tally.left_out:
        name = f"rejected by {printable(group['rule'])}" if group["rule"] else group["state"]
        yield f"in no figure: {plural(group['rows'], 'row')} {name}, of which nobody judged one"
    yield f"verdicts: {tally.verdicts}"


def tally_tables(tally: ReviewTally) -> list[Table]:
    """Tables of shares, agreement, rules and reasons; those without rows are left out."""
    shares: list[_Row] = [
        [_SHARE_OF[name], _percent(share), str(share.n)] for name, share in tally.accepted.items() if share
    ]
    pairs: list[_Row] = [
        [f"{pair.first[:8]} and {pair.second[:8]}", str(pair.rows), _percent(pair.agreement), _kappa(pair.kappa)]
        for pair in tally.pairs
    ]
    checks: list[_Row] = [
        [
            "all rules together" if check.rule == ALL_CHECKS else printable(check.rule),
            f"{check.rows:,}", str(check.judged), _percent(check.precision), _percent(check.recall),
        ]
        for check in tally.checks
    ]  # fmt: skip
    judges: list[_Row] = [
        [
            printable(each.judge), str(each.rows), str(each.bins), f"{100 * each.value:.1f}",
            f"{100 * each.accepted:.1f}", _percent(each.error),
        ]
        for each in tally.judges
    ]  # fmt: skip
    names = dict.fromkeys(name for counts in tally.reasons.values() for name in counts)
    reasons: list[_Row] = [
        [REASONS.get(name, name), *(str(tally.reasons[s].get(name, 0)) for s in _STATES)] for name in names
    ]
    tables = [
        Table("People accept", ["of", "share (%)", "judged"], shares, _INTERVALS),
        Table(
            "Agreement of reviewers", ["reviewers", "rows", "agree (%)", "Cohen's kappa"], pairs,
            "Kappa: 0 is what chance gives, 1 is full agreement; a dash where both gave one verdict to all.",
        ),
        Table(
            "Rules against people", ["rule", "rejected", "judged", "precision (%)", "recall (%)"], checks,
            "Precision: of the rows that the rule rejected, the share that people reject too. Recall: of the rows that "
            "people reject, the share that the rule rejected; a row counts for the first rule that rejected it.",
        ),
        Table(
            "Judges against people",
            ["judge", "rows", "bins", "mean value (%)", "people accept (%)", "calibration error (%)"], judges,
            "Rows are put into bins by the judge's probability; the error is the mean distance, over the bins, between "
            "it and the share that people accept (expected calibration error). Few rows give one above 0 by chance.",
        ),
        Table("Reasons of people", ["reason", "run accepted", "run rejected"], reasons, "Counts in the sample."),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def _percent(share: Estimate | None) -> Figure:
    if share is None:
        return Figure("-")
    return Figure(f"{100 * share.value:.1f}", f"{100 * share.low:.1f} to {100 * share.high:.1f}")


def _kappa(kappa: Estimate | None) -> Figure:
    return Figure("-") if kappa is None else Figure(f"{kappa.value:.2f}", f"{kappa.low:.2f} to {kappa.high:.2f}")

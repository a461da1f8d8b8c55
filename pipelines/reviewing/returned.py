"""Reads the files that reviewers sent back, and puts together what they say of each row."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from eval.blind_page import items_fault, read_returned_files
from pipelines.publishing.reviewed_rows import read_verdicts
from schemas.errors import JobError
from schemas.review import Judgement, ReturnedReview, ReviewedRow, ReviewKey, review_path, verdict_of_most
from services.storage.store import ShardStore

RETURNED = "--returned"


def read_files(
    store: ShardStore, keys: Mapping[str, ReviewKey], paths: Sequence[str]
) -> tuple[ReviewKey, list[ReturnedReview]]:
    """Reads files of one review of a run; returns its key, and the files in the order of the paths.

    Args:
        store: folder of the run.
        keys: keys of its reviews, by their fingerprints.
        paths: paths or URLs of the files.

    Raises:
        JobError: a file cannot be read, is none that the page saved, is of another run or another review, or of the
            same reviewer as another one; or verdicts that were counted before are in none of them.
    """
    reviews: list[str] = []

    def fault_of(file: ReturnedReview) -> tuple[str, str]:
        if file.review not in keys:
            known = ", ".join(review[:8] for review in keys)
            cause = f"answers review {file.review[:8]}, and this run has the reviews {known}"
            return cause, "leave it out, or name the run that its page was made from"
        reviews.append(file.review)
        if file.review != reviews[0]:
            cause = f"answers review {file.review[:8]}, and the first file answers {reviews[0][:8]}: other rows"
            return cause, "count each review by itself"
        fault = items_fault("row", [row.row for row in keys[file.review].rows], [each.row for each in file.answers])
        return fault, "ask for the file as the page saved it, or leave it out"

    description = "a file of answers that a review's page saved"
    files = read_returned_files(RETURNED, paths, ReturnedReview, description, fault_of)
    key = keys[reviews[0]]
    _refuse_missing(store, key, files)
    return key, files


def _refuse_missing(store: ShardStore, key: ReviewKey, files: Sequence[ReturnedReview]) -> None:
    """Refuses files that lack verdicts which were counted before, and would be lost."""
    saved = {file.respondent: file.saved_at for file in files}
    for kept in read_verdicts(store):
        for reviewer, saved_at in kept.reviewers.items() if kept.review == key.review else ():
            if saved.get(reviewer, "") < saved_at:
                cause = (
                    f"{review_path(key.review)} in the run has verdicts of reviewer {reviewer[:8]}, saved "
                    f"{saved_at}, and these files do not"
                )
                remedy = "name the files of all reviewers together; to drop that reviewer, remove the file in the run"
                raise JobError(RETURNED, None, cause, remedy)


def reviewed_rows(key: ReviewKey, files: Sequence[ReturnedReview]) -> list[ReviewedRow]:
    """Returns the rows that somebody judged, with all verdicts on each."""
    judgements: dict[str, list[Judgement]] = defaultdict(list)
    for file in files:
        for answer in file.answers:
            if answer.verdict is not None:
                given = answer.model_dump(exclude={"row"})
                judgements[answer.row].append(Judgement(reviewer=file.respondent, **given))
    return [
        ReviewedRow(
            **row.model_dump(exclude={"row", "group"}),
            state=key.groups[row.group].state,
            rule=key.groups[row.group].rule,
            verdict=verdict_of_most(given.verdict for given in judgements[row.row]),
            judgements=judgements[row.row],
        )
        for row in key.rows
        if row.row in judgements
    ]

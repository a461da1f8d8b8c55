"""Files of a review, in which people judge sampled rows of a run: its key, the answers that come back, the verdicts.

All but the answers lie in the run's folder `reviews/`:

    reviews/1a2b3c4d5e6f.key.json    key of one review: which row of the run each id on the page stands for
    reviews/1a2b3c4d5e6f.json        verdicts of that review, made of the key and the returned files
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.questionnaire import MAX_REASON_CHARACTERS, Fingerprint, ReturnedFile
from schemas.record import Record
from schemas.rows import ACCEPTED, IDENTITY, REJECTED

REVIEWS_FOLDER = "reviews"
"""folder of a run in which its reviews lie"""
VERDICTS_ENDING, KEY_ENDING = ".json", ".key.json"
"""endings of the files' names"""
DIVIDED = "divided"
"""verdict on a row that as many people accepted as rejected"""
REASONS = {
    "emotion": "It does not express the emotion asked for",
    "meaning": "It changes or loses what the source says",
    "language": "Wrong language, or faulty grammar",
    "repetition": "It repeats itself",
    "unfinished": "It stops in the middle, or says next to nothing",
    "meta_talk": "A label, a remark or a refusal stands in it",
    "unsuitable": "It is unsuitable for its readers",
    "other": "Something else",
}
"""reasons for which a person rejects a text, as the page shows them; none has to be given"""

Verdict = Literal["accepted", "rejected"]


class RowIdentity(Record):
    """Identity of an output of a run, and the digest of the text that was shown: a retry gives it another text."""

    source: str
    """input file or dataset, as the column `source`"""
    row_index: int
    """number of the input row in its source"""
    sample: int
    """number of the sample"""
    variant: str
    """name of the variant"""
    text_sha256: Fingerprint
    """sha256 of the text as UTF-8"""

    @property
    def identity(self) -> tuple[Any, ...]:
        """Returns the values of the columns IDENTITY, in their order."""
        return tuple(getattr(self, name) for name in IDENTITY)


class ReviewGroup(Record):
    """Group of rows that the checks of a run treated alike, from which a review's rows were drawn."""

    state: Verdict
    """state of the rows"""
    rule: str
    """rule that rejected them; empty for accepted rows"""
    rows: int = Field(gt=0)
    """number of rows with a text that the run had then"""


class KeyRow(RowIdentity):
    """Row of a review: what its id on the page stands for."""

    row: str
    """id on the page"""
    group: int
    """number of its group in the key, from 0"""


class ReviewKey(Record):
    """Key of a review. It stays with the run: it says how the checks treated each row of the page."""

    format: Literal[1] = 1
    """version of this record's layout"""
    review: Fingerprint
    """sha256 over all that the page shows"""
    groups: list[ReviewGroup]
    """groups of the run's rows; their sizes are the weights of the sampled rows"""
    rows: list[KeyRow]
    """rows on the page"""


class ReviewAnswer(Record):
    """Answer of one person to one row."""

    row: str
    """id on the page"""
    verdict: Verdict | None
    """accepted or rejected; None where the person did not decide"""
    reason: Annotated[str, Field(pattern=f"^({'|'.join(REASONS)})?$")]
    """key of REASONS; empty where none was given"""
    note: Annotated[str, Field(max_length=MAX_REASON_CHARACTERS)]
    """anything else, in the person's words; may be empty"""


class ReturnedReview(ReturnedFile):
    """Answers of one reviewer, as the page saves them."""

    review: Fingerprint
    """sha256 of the review, as in its key"""
    answers: list[ReviewAnswer]
    """answers, one for each row, in the order that was shown"""


class Judgement(Record):
    """Verdict of one reviewer on one row."""

    reviewer: str
    """id of the reviewer, `respondent` in the returned file"""
    verdict: Verdict
    """accepted or rejected"""
    reason: str
    """key of REASONS; empty where none was given"""
    note: str
    """anything else, in the reviewer's words; may be empty"""


class ReviewedRow(RowIdentity):
    """Row that at least one person judged."""

    state: Verdict
    """state that the row had in the run when it was shown"""
    rule: str
    """rule that had rejected it; empty for an accepted row"""
    verdict: Literal["accepted", "rejected", "divided"]
    """verdict of most of the people who judged it; divided where as many accepted as rejected it"""
    judgements: list[Judgement]
    """verdicts of the people who judged it"""


class ReviewFigure(Record):
    """Figure of a review, estimated for all rows of the run that have a text."""

    value: float
    """the estimate"""
    low: float
    """lower end of its 95% interval"""
    high: float
    """upper end"""
    n: int
    """number of judged rows that it rests on"""


class ReviewAgreement(Record):
    """Agreement of two reviewers of a review."""

    first: str
    """id of one reviewer"""
    second: str
    """id of the other"""
    rows: int
    """number of rows that both judged"""
    agreement: ReviewFigure | None
    """share of rows on which they agree; None where they have no row in common"""
    kappa: ReviewFigure | None
    """Cohen's kappa; None there too, and where both gave one and the same verdict to all rows"""


class ReviewVerdicts(Record):
    """Verdicts of a review, which are kept with the run: what people said of each row that they judged.

    A derived file: the key and the returned files make it again. A row belongs to the output of the same identity only
    if the text has the same sha256.
    """

    format: Literal[1] = 1
    """version of this record's layout"""
    review: Fingerprint
    """sha256 of the review, as in its key"""
    reviewers: dict[str, str]
    """time at which each reviewer saved the answers, by the reviewer's id"""
    accepted: dict[str, ReviewFigure | None]
    """share that people accept: of `all` rows, of those that the run `accepted`, of those that it `rejected`"""
    pairs: list[ReviewAgreement]
    """agreement of each two reviewers"""
    rows: list[ReviewedRow]
    """rows that somebody judged, in the order of the key"""


def verdict_of_most(verdicts: Iterable[str]) -> str:
    """Returns the verdict that most people gave: accepted, rejected, or DIVIDED where both have as many."""
    counts = Counter(verdicts)
    if counts[ACCEPTED] == counts[REJECTED]:
        return DIVIDED
    return ACCEPTED if counts[ACCEPTED] > counts[REJECTED] else REJECTED


def text_sha256(text: str) -> str:
    """Returns the digest by which a row of a review is told from a later text of the same output."""
    return hashlib.sha256(text.encode()).hexdigest()


def review_path(review: str, ending: str = VERDICTS_ENDING) -> str:
    """Returns the path of a review's verdicts, or of its key, relative to the run."""
    return f"{REVIEWS_FOLDER}/{review[:12]}{ending}"

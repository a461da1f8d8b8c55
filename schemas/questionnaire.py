"""The files of a blind questionnaire: the key that stays with the experimenter, and the answers that come back."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.run import Record

TIE = "tie"
"""the choice "no difference"; every other choice is the id of an answer"""
MAX_REASON_CHARACTERS = 2000
"""characters; the page lets nobody write more"""

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class QuestionnaireKey(Record):
    """questionnaire.key.json: which answer is whose."""

    format: Literal[1] = 1
    questionnaire: Fingerprint
    """sha256 over all that the page shows"""
    models: list[str]
    prompts: list["KeyPrompt"]


class KeyPrompt(Record):
    """One prompt of the questionnaire."""

    prompt: str
    """its id"""
    text: str
    model_of: dict[str, str]
    """of each answer's id, the model that wrote it"""


class ReturnedAnswers(Record):
    """What the page saves: all the answers of one respondent."""

    format: Literal[1]
    questionnaire: Fingerprint
    respondent: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """drawn at random by the page; the seed of all orders there"""
    saved_at: str
    """ISO 8601, UTC, by the respondent's clock"""
    answers: list["ReturnedAnswer"]
    """one for each prompt, in the order shown"""


class ReturnedAnswer(Record):
    """What one respondent said about one prompt."""

    prompt: str
    shown: list[str]
    """ids of the answers, in the order shown"""
    choice: str | None
    """id of the best one, TIE, or None where nothing was chosen"""
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARACTERS)]

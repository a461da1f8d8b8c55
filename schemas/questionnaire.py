"""Files of a blind questionnaire: the key, which stays with the experimenter, and the answers that come back."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.record import Record

PAGE_NAME, KEY_NAME = "questionnaire.html", "questionnaire.key.json"
"""file names of a questionnaire: its page, and the key that says whose each response is"""
TIE = "tie"
"""choice "no difference"; every other choice is the id of a response"""
MAX_REASON_CHARACTERS = 2000
"""largest number of characters of a reason; the page allows no more"""

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class QuestionnaireKey(Record):
    """Key of a questionnaire, questionnaire.key.json: the model of each response."""

    format: Literal[1] = 1
    """version of this record's layout"""
    questionnaire: Fingerprint
    """sha256 over all that the page shows"""
    models: list[str]
    """names of the models"""
    prompts: list["KeyPrompt"]
    """prompts of the questionnaire"""


class KeyPrompt(Record):
    """Prompt of a questionnaire, and the models of its responses."""

    prompt: str
    """id of the prompt"""
    text: str
    """text of the prompt"""
    model_of: dict[str, str]
    """model that wrote each response, by the response's id"""


class ReturnedFile(Record):
    """Head of the file that one respondent saves on a blind page."""

    format: Literal[1]
    """version of this record's layout"""
    respondent: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """id of the respondent, which the page draws at random; also the seed of the orders that the page shows"""
    saved_at: str
    """time of saving, by the respondent's clock: ISO 8601, UTC"""


class ReturnedAnswers(ReturnedFile):
    """Answers of one respondent of a questionnaire, as the page saves them."""

    questionnaire: Fingerprint
    """sha256 of the questionnaire, as in its key"""
    answers: list["ReturnedAnswer"]
    """answers, one for each prompt, in the order that was shown"""


class ReturnedAnswer(Record):
    """Answer of one respondent to one prompt of the questionnaire."""

    prompt: str
    """id of the prompt"""
    shown: list[str]
    """ids of the responses, in the order that was shown"""
    choice: str | None
    """id of the best response, TIE, or None where nothing was chosen"""
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARACTERS)]
    """reason of the choice, in the respondent's words; empty where none was given"""

"""Reads a questionnaire's key and the answers that came back, and refuses what does not belong to it."""

from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError

from schemas.errors import JobError
from schemas.questionnaire import TIE, QuestionnaireKey, ReturnedAnswer, ReturnedAnswers
from schemas.run import Record
from services.filesystem import resolve

# No file of answers comes near it; a file of another kind is not read to its end.
_LARGEST_FILE_BYTES = 20_000_000

_RETURNED = "preference.returned"

FileKind = TypeVar("FileKind", bound=Record)


def read_key(path: str) -> QuestionnaireKey:
    """The key that `write_questionnaire` wrote.

    Raises:
        JobError: it cannot be read, or is none.
    """
    return _read("the questionnaire's key", path, QuestionnaireKey, "the questionnaire.key.json of these answers")


def read_returned(key: QuestionnaireKey, returned: Sequence[str]) -> list[ReturnedAnswers]:
    """The files that respondents sent back, in that order; each answers all prompts of the key, and nothing else.

    Raises:
        JobError: there are none; one cannot be read, is no file of answers, or does not fit the questionnaire; two are
            of the same respondent.
    """
    if not returned:
        raise JobError(_RETURNED, None, "no file of answers is named", "name the files that respondents sent back")
    files: list[ReturnedAnswers] = []
    place_of: dict[str, str] = {}
    for path in returned:
        file = _read(_RETURNED, path, ReturnedAnswers, "a file of answers that the questionnaire's page saved")
        if file.questionnaire != key.questionnaire:
            cause = f"answers questionnaire {file.questionnaire[:8]}, and the key is of {key.questionnaire[:8]}"
            raise JobError(_RETURNED, path, cause, "leave it out, or name the key that belongs to it")
        if file.respondent in place_of:
            cause = f"saved {file.saved_at}, is of the same respondent as {place_of[file.respondent]}"
            raise JobError(_RETURNED, path, cause, "name only the one that was saved last")
        place_of[file.respondent] = f"{path}, saved {file.saved_at}"
        if fault := _fault(key, file):
            raise JobError(_RETURNED, path, fault, "ask for the file as the page saved it, or leave it out")
        files.append(file)
    return files


def _fault(key: QuestionnaireKey, file: ReturnedAnswers) -> str:
    """What does not fit the questionnaire; empty where all does."""
    answer_ids = {prompt.prompt: set(prompt.model_of) for prompt in key.prompts}
    seen: set[str] = set()
    for answer in file.answers:
        if answer.prompt not in answer_ids:
            return f"has a prompt {answer.prompt!r} that the questionnaire lacks"
        if answer.prompt in seen:
            return f"has prompt {answer.prompt} twice"
        seen.add(answer.prompt)
        if unlike := _unlike(answer, answer_ids[answer.prompt]):
            return f"prompt {answer.prompt}: {unlike}"
    missing = [prompt for prompt in answer_ids if prompt not in seen]
    return f"lacks prompt {missing[0]} and {len(missing) - 1} more" if missing else ""


def _unlike(answer: ReturnedAnswer, ids: set[str]) -> str:
    if sorted(answer.shown) != sorted(ids):
        return "it was shown with other answers than the questionnaire has"
    if answer.choice not in {*ids, TIE, None}:
        return f"the choice {answer.choice!r} is none of its answers"
    return ""


def _read(key: str, path: str, kind: type[FileKind], what: str) -> FileKind:
    fs, place = resolve(path, key)
    try:
        data = fs.read_block(place, 0, _LARGEST_FILE_BYTES)
    except OSError as error:
        raise JobError(key, path, f"cannot be read: {error.strerror or error}", f"name {what}") from None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        cause = f"not {what}: {where + ': ' if where else ''}{first['msg']}"
        raise JobError(key, path, cause, f"name {what}") from None

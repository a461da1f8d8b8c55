"""A blind questionnaire: one HTML page to hand out, and the key that says which answer is whose.

The page holds texts and opaque ids, and has the browser load and send nothing. Texts are in it as JSON, and its script
shows them as text alone.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import jinja2
from pydantic import ValidationError

from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint
from schemas.questionnaire import (
    MAX_REASON_CHARACTERS,
    TIE,
    KeyPrompt,
    QuestionnaireKey,
    ReturnedAnswer,
    ReturnedAnswers,
)
from schemas.run import Record
from schemas.text import printable
from services.storage.filesystem import resolve, write_atomic

PAGE_NAME, KEY_NAME = "questionnaire.html", "questionnaire.key.json"
DEFAULT_QUESTION = "Which response to the instruction is the best?"


# No file of answers comes near it; a file of another kind is not read to its end.
_LARGEST_FILE_BYTES = 20_000_000
_RETURNED = "preference.returned"
FileKind = TypeVar("FileKind", bound=Record)


@dataclass(frozen=True)
class Questionnaire:
    """Where a questionnaire lies.

    Attributes:
        page: what respondents get.
        key: what they must not get; `eval.preference.count_preferences` needs it.
        fingerprint: sha256 over all that the page shows.
    """

    page: str
    key: str
    fingerprint: str


def write_questionnaire(
    prompts: Sequence[str],
    responses_by_model: Mapping[str, Sequence[str]],
    folder: str,
    seed: int,
    question: str = DEFAULT_QUESTION,
) -> Questionnaire:
    """Writes the page and its key into a folder. The same arguments give the same page.

    Args:
        answers_by_model: of each model's name, its answers in the order of the prompts.
        folder: local, or a URL of any fsspec file system.
        seed: of the ids of the answers.
        question: what the respondents are asked about each prompt.

    Raises:
        JobError: there is no prompt, there are fewer than two models, or one has another number of answers.
        RunError: the key of another questionnaire lies there, or the folder cannot be written.
    """
    _check(prompts, responses_by_model)
    answers = {model: list(responses_by_model[model]) for model in sorted(responses_by_model)}
    # The ids, and the order they give, depend on who wrote what: nobody can find them again from the page alone.
    secret = fingerprint({"seed": seed, "question": question, "prompts": list(prompts), "answers": answers})
    asked, keys = [], []
    for number, prompt in enumerate(prompts):
        model_of = {_id(secret, number, model): model for model in answers}
        texts = [{"id": each, "text": printable(answers[model_of[each]][number])} for each in sorted(model_of)]
        asked.append({"id": f"p{number + 1}", "text": printable(prompt), "answers": texts})
        keys.append(KeyPrompt(prompt=f"p{number + 1}", text=printable(prompt), model_of=model_of))
    content = {"question": printable(question), "prompts": asked}
    key = QuestionnaireKey(questionnaire=fingerprint(content), models=list(answers), prompts=keys)
    return _write(folder, key, _html(content, key.questionnaire))


def _check(prompts: Sequence[str], responses_by_model: Mapping[str, Sequence[str]]) -> None:
    if not prompts:
        raise JobError("preference.prompts", None, "there is none to ask about", "give at least one")
    if len(responses_by_model) < 2:
        raise JobError(
            "models", ", ".join(responses_by_model), "a preference needs two models or more", "name another one"
        )
    for model, answers in responses_by_model.items():
        if model == TIE:
            raise JobError("models", model, "the name stands for no difference", "give the model another name")
        if len(answers) != len(prompts):
            cause = f"has {len(answers)} answers to {len(prompts)} prompts"
            raise JobError("models", model, cause, "give one answer to each prompt")


def _id(secret: str, prompt: int, model: str) -> str:
    return hashlib.sha256(f"{secret} {prompt} {model}".encode()).hexdigest()[:12]


def _html(content: Mapping[str, Any], identity: str) -> str:
    data = files("eval")
    template, style, script = (
        (data / f"questionnaire.{kind}").read_text(encoding="utf-8") for kind in ("html.jinja", "css", "js")
    )
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    return page.render(
        question=content["question"],
        data={**content, "questionnaire": identity, "tie": TIE, "longest_reason": MAX_REASON_CHARACTERS},
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(source: str) -> str:
    """As a Content-Security-Policy names the one script, or style, that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _write(folder: str, key: QuestionnaireKey, page: str) -> Questionnaire:
    fs, root = resolve(folder, "folder")
    page_path, key_path = os.path.join(root, PAGE_NAME), os.path.join(root, KEY_NAME)
    key_bytes = (json.dumps(key.model_dump(), indent=1) + "\n").encode()
    try:
        # Answers to a page that was handed out are worth nothing without its key.
        if fs.exists(key_path) and fs.cat_file(key_path) != key_bytes:
            raise RunError(folder, None, "the key of another questionnaire lies there", "name another folder")
        write_atomic(fs, key_path, key_bytes)
        write_atomic(fs, page_path, page.encode())
    except OSError as error:
        cause = f"cannot be written: {error.strerror or error}"
        raise RunError(folder, None, cause, "name a folder that you may write to") from None
    return Questionnaire(os.path.join(folder, PAGE_NAME), os.path.join(folder, KEY_NAME), key.questionnaire)


def read_key(path: str) -> QuestionnaireKey:
    """The key that `write_questionnaire` wrote.

    Raises:
        JobError: it cannot be read, or is none.
    """
    return _read("the questionnaire's key", path, QuestionnaireKey, "the questionnaire.key.json of these answers")


def read_returned_answers(key: QuestionnaireKey, returned: Sequence[str]) -> list[ReturnedAnswers]:
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

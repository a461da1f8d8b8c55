"""Blind questionnaire: writes its page and key, and reads the answers that respondents send back.

A questionnaire is one HTML page to hand out, one key that stays with the experimenter, and later one file of answers
from each respondent (`schemas.questionnaire` has the records).

Invariant: the page alone does not tell which model wrote a response. It holds texts and opaque ids; the key maps the
ids to models. The page works offline: the browser loads nothing and sends nothing. Texts lie in it as JSON, and its
script shows them as text, so that markup in a response has no effect.
"""

import base64
import codecs
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
    KEY_NAME,
    MAX_REASON_CHARACTERS,
    PAGE_NAME,
    TIE,
    KeyPrompt,
    QuestionnaireKey,
    ReturnedAnswer,
    ReturnedAnswers,
)
from schemas.run import Record
from schemas.text import printable
from services.storage.filesystem import resolve, write_atomic

DEFAULT_QUESTION = "Which response to the instruction is the best?"

# Far more than any key or file of answers has. A file of another kind is not read to its end.
_MAX_FILE_BYTES = 20_000_000
_RETURNED = "preference.returned"
_FileKind = TypeVar("_FileKind", bound=Record)


@dataclass(frozen=True)
class Questionnaire:
    """Paths and identity of a questionnaire that was written.

    Attributes:
        page: path of the page for the respondents.
        key: path of the key, which respondents must not see. `eval.preference.count_preferences` needs it.
        fingerprint: sha256 of all that the page shows.
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
        prompts: prompts to ask about.
        responses_by_model: name of a model -> its responses, in the order of the prompts.
        folder: local folder, or URL of any fsspec file system.
        seed: seed of the ids of the responses.
        question: question that is asked about each prompt.

    Raises:
        JobError: there is no prompt, there are fewer than two models, a model is called like the choice "no
            difference", or a model does not have one response to each prompt.
        RunError: the key of another questionnaire lies in the folder, or the folder cannot be written.
    """
    _refuse_unfit(prompts, responses_by_model)
    responses = {model: list(responses_by_model[model]) for model in sorted(responses_by_model)}
    # The ids, and the order of the responses that follows from them, depend on all responses of all models. So they
    # cannot be computed again from the page alone, not even with the seed and the names of the models. The names of
    # these values, here and below, are part of fingerprints: other names would make a written key useless.
    secret = fingerprint({"seed": seed, "question": question, "prompts": list(prompts), "answers": responses})
    page_prompts, key_prompts = [], []
    for number, prompt in enumerate(prompts):
        prompt_id = f"p{number + 1}"
        model_of = {_response_id(secret, number, model): model for model in responses}
        texts = [
            {"id": response_id, "text": printable(responses[model_of[response_id]][number])}
            for response_id in sorted(model_of)
        ]
        page_prompts.append({"id": prompt_id, "text": printable(prompt), "answers": texts})
        key_prompts.append(KeyPrompt(prompt=prompt_id, text=printable(prompt), model_of=model_of))
    content = {"question": printable(question), "prompts": page_prompts}
    key = QuestionnaireKey(questionnaire=fingerprint(content), models=list(responses), prompts=key_prompts)
    return _write(folder, key, _html(content, key.questionnaire))


def _refuse_unfit(prompts: Sequence[str], responses_by_model: Mapping[str, Sequence[str]]) -> None:
    """Refuses prompts and responses that make no questionnaire, before anything is written."""
    if not prompts:
        raise JobError("preference.prompts", None, "there is no prompt to ask about", "give at least one")
    if len(responses_by_model) < 2:
        models = ", ".join(responses_by_model)
        raise JobError("models", models, "a preference needs two models or more", "name another one")
    for model, responses in responses_by_model.items():
        if model == TIE:
            raise JobError("models", model, "the name stands for no difference", "give the model another name")
        if len(responses) != len(prompts):
            cause = f"has {len(responses)} responses to {len(prompts)} prompts"
            raise JobError("models", model, cause, "give one response to each prompt")


def _response_id(secret: str, prompt: int, model: str) -> str:
    """Returns the opaque id of a model's response to a prompt."""
    return hashlib.sha256(f"{secret} {prompt} {model}".encode()).hexdigest()[:12]


def _html(content: Mapping[str, Any], identity: str) -> str:
    """Renders the page, with its style and script in it."""
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
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _policy_hash(source: str) -> str:
    """Returns the hash by which the page's Content-Security-Policy allows this one script or style, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _write(folder: str, key: QuestionnaireKey, page: str) -> Questionnaire:
    fs, root = resolve(folder, "folder")
    page_path, key_path = os.path.join(root, PAGE_NAME), os.path.join(root, KEY_NAME)
    key_bytes = (json.dumps(key.model_dump(), indent=1) + "\n").encode()
    try:
        # A page may have been handed out already, and its answers are worth nothing without its key: so a key is never
        # replaced, and it is written before the page.
        if fs.exists(key_path) and fs.cat_file(key_path) != key_bytes:
            raise RunError(folder, None, "the key of another questionnaire lies there", "name another folder")
        write_atomic(fs, key_path, key_bytes)
        write_atomic(fs, page_path, page.encode())
    except OSError as error:
        cause = f"cannot be written: {error.strerror or error}"
        raise RunError(folder, None, cause, "name a folder that you may write to") from None
    return Questionnaire(os.path.join(folder, PAGE_NAME), os.path.join(folder, KEY_NAME), key.questionnaire)


def read_key(path: str) -> QuestionnaireKey:
    """Reads a key that `write_questionnaire` wrote.

    Raises:
        JobError: the file cannot be read, or is not a key.
    """
    return _read("the questionnaire's key", path, QuestionnaireKey, "the questionnaire.key.json of these answers")


def read_returned_answers(key: QuestionnaireKey, paths: Sequence[str]) -> list[ReturnedAnswers]:
    """Reads the files that respondents sent back, in the order of the paths.

    Each file that is returned answers every prompt of the key once, and nothing else.

    Raises:
        JobError: there are no files; one cannot be read, is not a file of answers, or does not fit the questionnaire;
            or two are of the same respondent.
    """
    if not paths:
        raise JobError(_RETURNED, None, "no file of answers is named", "name the files that respondents sent back")
    returned: list[ReturnedAnswers] = []
    file_of_respondent: dict[str, str] = {}
    for path in paths:
        answers = _read(_RETURNED, path, ReturnedAnswers, "a file of answers that the questionnaire's page saved")
        if answers.questionnaire != key.questionnaire:
            cause = f"answers questionnaire {answers.questionnaire[:8]}, and the key is of {key.questionnaire[:8]}"
            raise JobError(_RETURNED, path, cause, "leave it out, or name the key that belongs to it")
        if answers.respondent in file_of_respondent:
            other_file = file_of_respondent[answers.respondent]
            cause = f"saved {answers.saved_at}, is of the same respondent as {other_file}"
            raise JobError(_RETURNED, path, cause, "name only the one that was saved last")
        file_of_respondent[answers.respondent] = f"{path}, saved {answers.saved_at}"
        if fault := _fault(key, answers):
            raise JobError(_RETURNED, path, fault, "ask for the file as the page saved it, or leave it out")
        returned.append(answers)
    return returned


def _fault(key: QuestionnaireKey, answers: ReturnedAnswers) -> str:
    """Returns the first way in which answers do not fit the questionnaire, or an empty text."""
    response_ids = {prompt.prompt: set(prompt.model_of) for prompt in key.prompts}
    answered: set[str] = set()
    for answer in answers.answers:
        if answer.prompt not in response_ids:
            return f"has a prompt {answer.prompt!r} that the questionnaire lacks"
        if answer.prompt in answered:
            return f"has prompt {answer.prompt} twice"
        answered.add(answer.prompt)
        if fault := _answer_fault(answer, response_ids[answer.prompt]):
            return f"prompt {answer.prompt}: {fault}"
    missing = [prompt for prompt in response_ids if prompt not in answered]
    return f"lacks prompt {missing[0]} and {len(missing) - 1} more" if missing else ""


def _answer_fault(answer: ReturnedAnswer, response_ids: set[str]) -> str:
    """Returns the way in which one answer does not fit its prompt, or an empty text."""
    if sorted(answer.shown) != sorted(response_ids):
        return "it was shown with other responses than the questionnaire has"
    if answer.choice not in {*response_ids, TIE, None}:
        return f"the choice {answer.choice!r} is not one of its responses"
    return ""


def _read(key: str, path: str, kind: type[_FileKind], description: str) -> _FileKind:
    """Reads and checks a JSON file.

    Args:
        key: job key that names the file, for errors.
        path: path, or URL of any fsspec file system.
        kind: record that the file must be.
        description: the same for a person, with its article.
    """
    fs, location = resolve(path, key)
    try:
        data = fs.read_block(location, 0, _MAX_FILE_BYTES)
    except OSError as error:
        raise JobError(key, path, f"cannot be read: {error.strerror or error}", f"name {description}") from None
    try:
        return kind.model_validate_json(data.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        cause = f"not {description}: {field + ': ' if field else ''}{first['msg']}"
        raise JobError(key, path, cause, f"name {description}") from None

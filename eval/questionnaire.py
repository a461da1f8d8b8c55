"""Blind questionnaire: writes its page and key, and reads the answers that respondents send back.

A questionnaire is one HTML page to hand out, one key that stays with the experimenter, and later one file of answers
from each respondent (`schemas.questionnaire` has the records).

Invariant: the page alone does not tell which model wrote a response. It holds texts and opaque ids; the key maps the
ids to models. The page works offline: the browser loads nothing and sends nothing. Texts lie in it as JSON, and its
script shows them as text, so that markup in a response has no effect.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from eval.blind_page import blind_page, items_fault, opaque_id, read_file, read_returned_files, write_key
from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint
from schemas.questionnaire import (
    KEY_NAME,
    PAGE_NAME,
    TIE,
    KeyPrompt,
    QuestionnaireKey,
    ReturnedAnswer,
    ReturnedAnswers,
)
from schemas.text import printable
from services.storage.filesystem import resolve, write_atomic

DEFAULT_QUESTION = "Which response to the instruction is the best?"

_RETURNED = "preference.returned"


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
        model_of = {opaque_id(secret, number, model): model for model in responses}
        texts = [
            {"id": response_id, "text": printable(responses[model_of[response_id]][number])}
            for response_id in sorted(model_of)
        ]
        page_prompts.append({"id": prompt_id, "text": printable(prompt), "answers": texts})
        key_prompts.append(KeyPrompt(prompt=prompt_id, text=printable(prompt), model_of=model_of))
    content = {"question": printable(question), "prompts": page_prompts}
    key = QuestionnaireKey(questionnaire=fingerprint(content), models=list(responses), prompts=key_prompts)
    page = blind_page("eval", "questionnaire", key.questionnaire, page_prompts, question=content["question"], tie=TIE)
    return _write(folder, key, page)


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


def _write(folder: str, key: QuestionnaireKey, page: str) -> Questionnaire:
    fs, root = resolve(folder, "folder")
    try:
        if not write_key(fs, os.path.join(root, KEY_NAME), key):
            raise RunError(folder, None, "the key of another questionnaire lies there", "name another folder")
        write_atomic(fs, os.path.join(root, PAGE_NAME), page.encode())
    except OSError as error:
        cause = f"cannot be written: {error.strerror or error}"
        raise RunError(folder, None, cause, "name a folder that you may write to") from None
    return Questionnaire(os.path.join(folder, PAGE_NAME), os.path.join(folder, KEY_NAME), key.questionnaire)


def read_key(path: str) -> QuestionnaireKey:
    """Reads a key that `write_questionnaire` wrote.

    Raises:
        JobError: the file cannot be read, or is not a key.
    """
    return read_file("the questionnaire's key", path, QuestionnaireKey, "the questionnaire.key.json of these answers")


def read_returned_answers(key: QuestionnaireKey, paths: Sequence[str]) -> list[ReturnedAnswers]:
    """Reads the files that respondents sent back, in the order of the paths.

    Each file that is returned answers every prompt of the key once, and nothing else.

    Raises:
        JobError: there are no files; one cannot be read, is not a file of answers, or does not fit the questionnaire;
            or two are of the same respondent.
    """
    description = "a file of answers that the questionnaire's page saved"
    return read_returned_files(_RETURNED, paths, ReturnedAnswers, description, partial(_fault, key))


def _fault(key: QuestionnaireKey, answers: ReturnedAnswers) -> tuple[str, str]:
    """Returns the first way in which answers do not fit the questionnaire, and the remedy, or two empty texts."""
    if answers.questionnaire != key.questionnaire:
        cause = f"answers questionnaire {answers.questionnaire[:8]}, and the key is of {key.questionnaire[:8]}"
        return cause, "leave it out, or name the key that belongs to it"
    response_ids = {prompt.prompt: set(prompt.model_of) for prompt in key.prompts}
    fault = items_fault("prompt", list(response_ids), [answer.prompt for answer in answers.answers])
    for answer in answers.answers:
        fault = fault or _answer_fault(answer, response_ids[answer.prompt])
    return fault, "ask for the file as the page saved it, or leave it out"


def _answer_fault(answer: ReturnedAnswer, response_ids: set[str]) -> str:
    """Returns the way in which one answer does not fit its prompt, or an empty text."""
    if sorted(answer.shown) != sorted(response_ids):
        return f"prompt {answer.prompt}: it was shown with other responses than the questionnaire has"
    if answer.choice not in {*response_ids, TIE, None}:
        return f"prompt {answer.prompt}: the choice {answer.choice!r} is not one of its responses"
    return ""

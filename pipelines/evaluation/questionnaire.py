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
from typing import Any

import jinja2

from pipelines.printable import printable
from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint
from schemas.questionnaire import LONGEST_REASON, TIE, KeyPrompt, QuestionnaireKey
from services.filesystem import resolve, write_atomic

PAGE, KEY = "questionnaire.html", "questionnaire.key.json"
QUESTION = "Which response to the instruction is the best?"


@dataclass(frozen=True)
class Questionnaire:
    """Where a questionnaire lies.

    Attributes:
        page: what respondents get.
        key: what they must not get; `eval.preference.tally` needs it.
        fingerprint: sha256 over all that the page shows.
    """

    page: str
    key: str
    fingerprint: str


def write_questionnaire(
    prompts: Sequence[str],
    answers_by_model: Mapping[str, Sequence[str]],
    folder: str,
    seed: int,
    question: str = QUESTION,
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
    _check(prompts, answers_by_model)
    answers = {model: list(answers_by_model[model]) for model in sorted(answers_by_model)}
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


def _check(prompts: Sequence[str], answers_by_model: Mapping[str, Sequence[str]]) -> None:
    if not prompts:
        raise JobError("preference.prompts", None, "there is none to ask about", "give at least one")
    if len(answers_by_model) < 2:
        raise JobError(
            "models", ", ".join(answers_by_model), "a preference needs two models or more", "name another one"
        )
    for model, answers in answers_by_model.items():
        if model == TIE:
            raise JobError("models", model, "the name stands for no difference", "give the model another name")
        if len(answers) != len(prompts):
            cause = f"has {len(answers)} answers to {len(prompts)} prompts"
            raise JobError("models", model, cause, "give one answer to each prompt")


def _id(secret: str, prompt: int, model: str) -> str:
    return hashlib.sha256(f"{secret} {prompt} {model}".encode()).hexdigest()[:12]


def _html(content: Mapping[str, Any], identity: str) -> str:
    data = files("pipelines") / "data"
    template, style, script = (
        (data / f"questionnaire.{kind}").read_text(encoding="utf-8") for kind in ("html.jinja", "css", "js")
    )
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    return page.render(
        question=content["question"],
        data={**content, "questionnaire": identity, "tie": TIE, "longest_reason": LONGEST_REASON},
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
    page_path, key_path = os.path.join(root, PAGE), os.path.join(root, KEY)
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
    return Questionnaire(os.path.join(folder, PAGE), os.path.join(folder, KEY), key.questionnaire)

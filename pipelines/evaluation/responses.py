"""Responses to prompts, and those that a file holds."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.evaluation.files import emotion_of, is_json, lists_by_emotion, read_json, read_table, text_of
from pipelines.evaluation.prompts import EmotionPrompt
from schemas.errors import JobError
from schemas.evaluate import Responses

_KEY = "responses.path"
# The text before the first marker is the prompt, in the format of many instruction models.
_MARKER = re.compile(r"(?:^|(?<=[\s#]))Response:\s*")


@dataclass(frozen=True)
class Response:
    """A response, and the prompt that it responds to.

    Attributes:
        prompt, emotion: the prompt and its emotion; "" where they are not known.
        text: the response; None where there is none, for the reason in `fault`.
        finish_reason: reason of the engine to end: stop, or length where the text was cut off; "" where not known.
        seed: seed of the sampling; None where it is not known.
    """

    prompt: str
    emotion: str
    text: str | None
    finish_reason: str = ""
    seed: int | None = None
    fault: str = ""


def read_responses(section: Responses, prompts: Sequence[EmotionPrompt] | None) -> list[Response]:
    """Reads all responses of a file.

    Args:
        prompts: prompts of the responses; None where the job names none.

    Raises:
        JobError: the file cannot be read, holds no response or an unknown emotion, or its number of responses is not
            the number of prompts.
    """
    by_emotion, rows = _rows(section)
    responses = [
        Response(prompt, emotion, text) for emotion, whole in rows for prompt, text in [split_at_marker(whole)]
    ]
    if not responses:
        raise JobError(_KEY, section.path, "there is no response in it", "name a file that has some")
    if prompts is None:
        if 0 < sum(not response.emotion for response in responses) < len(responses):
            cause = "some of its responses have an emotion, and some have none"
            raise JobError(_KEY, section.path, cause, "give each one, or none, its emotion")
        return responses
    if by_emotion:
        return _pair_by_emotion(section.path, responses, prompts)
    return _pair_in_order(section.path, responses, prompts)


def split_at_marker(text: str) -> tuple[str, str]:
    """Splits a text at `Response:` into (prompt, response); a text without the marker gives ("", text)."""
    marker = _MARKER.search(text)
    return (text[: marker.start()].rstrip("# \n"), text[marker.end() :]) if marker else ("", text)


def _rows(section: Responses) -> tuple[bool, list[tuple[str, str]]]:
    """Returns whether the file has lists by emotion, and (emotion or "", text) of each response."""
    data = read_json(_KEY, section.path) if is_json(section.path) else None
    if isinstance(data, dict):
        entries = lists_by_emotion(_KEY, section.path, data)
        return True, [
            (emotion, text_of(_KEY, f"{where}, {number}", text, blank=True))
            for where, emotion, texts in entries
            for number, text in enumerate(texts)
        ]
    if data == [] or (isinstance(data, list) and not isinstance(data[0], dict)):
        return False, [("", text_of(_KEY, f"{section.path}, {n}", text, blank=True)) for n, text in enumerate(data)]
    return False, list(_table(section))


def _table(section: Responses) -> Iterator[tuple[str, str]]:
    optional = () if "emotion" in section.columns else ("emotion",)
    for where, row in read_table(_KEY, section.path, section, ["response", "emotion"], optional):
        emotion = "" if row["emotion"] is None else emotion_of(_KEY, where, row["emotion"])
        yield emotion, text_of(_KEY, where, row["response"], blank=True)


def _pair_in_order(path: str, responses: list[Response], prompts: Sequence[EmotionPrompt]) -> list[Response]:
    if len(responses) != len(prompts):
        raise _count_error(path, len(responses), len(prompts))
    for number, (response, prompt) in enumerate(zip(responses, prompts, strict=True)):
        if response.emotion not in ("", prompt.emotion):
            cause = f"its emotion is {response.emotion}, and that of prompt {number} is {prompt.emotion}"
            raise JobError(_KEY, f"{path}, {number}", cause, "bring the responses into the order of the prompts")
    pairs = zip(responses, prompts, strict=True)
    return [Response(prompt.text, prompt.emotion, response.text) for response, prompt in pairs]


def _pair_by_emotion(path: str, responses: list[Response], prompts: Sequence[EmotionPrompt]) -> list[Response]:
    given, asked = Counter(response.emotion for response in responses), Counter(prompt.emotion for prompt in prompts)
    for emotion in {**asked, **given}:
        if given[emotion] != asked[emotion]:
            raise _count_error(f"{path}, {emotion}", given[emotion], asked[emotion])
    texts = {emotion: iter([each.text for each in responses if each.emotion == emotion]) for emotion in asked}
    return [Response(prompt.text, prompt.emotion, next(texts[prompt.emotion])) for prompt in prompts]


def _count_error(where: str, given: int, asked: int) -> JobError:
    cause = f"{given} responses, and {asked} prompts"
    return JobError(_KEY, where, cause, "give one response to each prompt, in the order of the prompts")

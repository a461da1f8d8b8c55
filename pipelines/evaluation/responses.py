"""Responses that are there already: read from a file, and laid beside the prompts that they answer."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.augmentation.augment import augment
from pipelines.evaluation.files import emotion_of, is_json, lists_by_emotion, read_json, read_table, text_of
from pipelines.evaluation.prompts import EmotionPrompt
from schemas.augment import AugmentJob, AugmentOutput
from schemas.errors import JobError, RunError
from schemas.evaluate import EvaluatedModel, EvaluateJob, Responses
from schemas.job import Input, Metrics
from schemas.rows import ACCEPTED, ERROR
from services.storage.store import ShardStore

_KEY = "responses.path"
# What stands before the first one is the prompt, in the format of many instruction models.
_MARKER = re.compile(r"(?:^|(?<=[\s#]))Response:\s*")


_log = logging.getLogger("kindling")
_COLUMNS = ["row_index", "text", "reason", "finish_reason", "seed"]


@dataclass(frozen=True)
class Answer:
    """A response and what it answers.

    Attributes:
        prompt, emotion: "" where they are not known.
        text: None where there is none, for the reason `fault`.
        finish_reason: as the engine told it: stop, or length where it was cut off; "" where nobody knows.
        seed: that it was sampled by.
    """

    prompt: str
    emotion: str
    text: str | None
    finish_reason: str = ""
    seed: int | None = None
    fault: str = ""


def read_answers(section: Responses, prompts: Sequence[EmotionPrompt] | None) -> list[Answer]:
    """All responses of a file.

    Args:
        prompts: that they answer; None where the job names none.

    Raises:
        JobError: it cannot be read, holds no response, an unknown emotion, or another number than there are prompts.
    """
    by_emotion, rows = _rows(section)
    found = [Answer(prompt, emotion, text) for emotion, whole in rows for prompt, text in [split_at_marker(whole)]]
    if not found:
        raise JobError(_KEY, section.path, "there is no response in it", "name a file that has some")
    if prompts is None:
        if 0 < sum(not each.emotion for each in found) < len(found):
            cause = "some of its responses have an emotion, and some have none"
            raise JobError(_KEY, section.path, cause, "give each one, or none, its emotion")
        return found
    if by_emotion:
        return _beside_by_emotion(section.path, found, prompts)
    return _beside(section.path, found, prompts)


def split_at_marker(text: str) -> tuple[str, str]:
    """(prompt, answer) of a text in which `Response:` stands between them; ("", the text) of any other."""
    marker = _MARKER.search(text)
    return (text[: marker.start()].rstrip("# \n"), text[marker.end() :]) if marker else ("", text)


def _rows(section: Responses) -> tuple[bool, list[tuple[str, str]]]:
    """Whether they come in lists by emotion; (emotion or "", text) of each."""
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
    for where, row in read_table(_KEY, section.path, section.columns, ["response", "emotion"], optional):
        emotion = "" if row["emotion"] is None else emotion_of(_KEY, where, row["emotion"])
        yield emotion, text_of(_KEY, where, row["response"], blank=True)


def _beside(path: str, found: list[Answer], prompts: Sequence[EmotionPrompt]) -> list[Answer]:
    if len(found) != len(prompts):
        raise _wrong_count(path, len(found), len(prompts))
    for number, (answer, prompt) in enumerate(zip(found, prompts, strict=True)):
        if answer.emotion not in ("", prompt.emotion):
            cause = f"it is said to be of {answer.emotion}, and prompt {number} is of {prompt.emotion}"
            raise JobError(_KEY, f"{path}, {number}", cause, "bring the responses into the order of the prompts")
    return [Answer(prompt.text, prompt.emotion, answer.text) for answer, prompt in zip(found, prompts, strict=True)]


def _beside_by_emotion(path: str, found: list[Answer], prompts: Sequence[EmotionPrompt]) -> list[Answer]:
    there, asked = Counter(each.emotion for each in found), Counter(each.emotion for each in prompts)
    for emotion in {**asked, **there}:
        if there[emotion] != asked[emotion]:
            raise _wrong_count(f"{path}, {emotion}", there[emotion], asked[emotion])
    texts = {emotion: iter([each.text for each in found if each.emotion == emotion]) for emotion in asked}
    return [Answer(prompt.text, prompt.emotion, next(texts[prompt.emotion])) for prompt in prompts]


def _wrong_count(where: str, there: int, asked: int) -> JobError:
    cause = f"{there} responses, and {asked} prompts"
    return JobError(_KEY, where, cause, "give one response to each prompt, in the order of the prompts")


def write_prompts(store: ShardStore, evaluation: str, prompts: Sequence[EmotionPrompt]) -> str:
    """Writes the prompts as input rows below the evaluation's folder; their URL."""
    rows = ({"messages": [{"role": "user", "content": prompt.text}], "emotion": prompt.emotion} for prompt in prompts)
    name = f"responses/{evaluation}.jsonl"
    store.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return f"{store.url.rstrip('/')}/{name}"


def responses_of(
    job: EvaluateJob, model: EvaluatedModel, evaluation: str, prompts: Sequence[EmotionPrompt], prompts_url: str
) -> tuple[list[Answer], dict[str, Any]]:
    """The responses of a model, one to each prompt in their order; what is there already is not generated again.

    The model's chat template is applied to each prompt; a model without one gets the prompt as it stands.

    Returns:
        the answers; and of the engine that wrote them what run.json tells.

    Raises:
        EngineError: the model cannot be loaded.
        StoppedError: a signal came; what is finished is kept.
    """
    url = f"{job.output.path.rstrip('/')}/responses/{evaluation}/{model.label}"
    _log.info("%s answers %d prompts", model.label, len(prompts))
    augment(
        AugmentJob(
            name=f"{job.name}-{model.label}",
            input=Input(path=prompts_url, keep=["emotion"]),
            recipe="messages",
            model=model.model(),
            sampling=job.sampling,
            engine=job.engine,
            cluster=job.cluster,
            output=AugmentOutput(path=url),
            metrics=_free_port(job.metrics),
            seed=job.seed,
        )
    )
    store = ShardStore(url)
    found: dict[int, Answer] = {}
    for state in (ACCEPTED, ERROR):
        for batch in store.read_rows(state, _COLUMNS):
            for row in batch.to_pylist():
                prompt = prompts[row["row_index"]]
                text, fault = (row["text"], "") if state == ACCEPTED else (None, row["reason"])
                found[row["row_index"]] = Answer(
                    prompt.text, prompt.emotion, text, row["finish_reason"], row["seed"], fault
                )
    if len(found) != len(prompts):
        remedy = "`kindling verify` tells what is wrong with it"
        raise RunError("output.path", url, f"it has {len(found)} responses to {len(prompts)} prompts", remedy)
    run = store.read_run()
    return [found[number] for number in range(len(prompts))], run.engine | {"versions": run.versions} if run else {}


def _free_port(metrics: Metrics) -> Metrics:
    """Of a run of the evaluation, which has the port itself."""
    return metrics if metrics.port is None else metrics.model_copy(update={"port": 0})

"""Prompt sets, in which each prompt has the emotion that it is about; and groups of emotions."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from eval.sentiment import PAPER_GROUPS, group_of_emotion
from pipelines.evaluation.files import emotion_of, is_json, lists_by_emotion, read_json, read_table, text_of
from pipelines.publishing.export_prompts import PROMPTS_PER_EMOTION, collect_prompts
from pipelines.run_folder import kind_of
from schemas.emotions import parse_emotions
from schemas.errors import JobError, RunError
from schemas.evaluate import PromptSet, Sentiment
from services.storage.store import ShardStore

_GROUPS = "sentiment.groups"


@dataclass(frozen=True)
class EmotionPrompt:
    """A prompt, and the emotion that it is about."""

    text: str
    emotion: str


class _HasEmotion(Protocol):
    @property
    def emotion(self) -> str: ...


Item = TypeVar("Item", bound=_HasEmotion)


def read_prompts(section: PromptSet, name: str) -> list[EmotionPrompt]:
    """Reads all prompts of a set, in the order of its file.

    Args:
        name: name of the section in the job.

    Raises:
        JobError: the file cannot be read, holds no prompt or a blank one, or names an unknown emotion.
    """
    url, key = section.prompts or "", f"{name}.prompts"
    if kind_of(store := ShardStore(url)) is not None:
        return _prompts_of_run(section, key, store.url)
    data = read_json(key, url) if is_json(url) else None
    if isinstance(data, dict):
        entries = lists_by_emotion(key, url, data)
        prompts = [
            EmotionPrompt(text_of(key, f"{where}, {number}", text), emotion)
            for where, emotion, texts in entries
            for number, text in enumerate(texts)
        ]
    else:
        prompts = [
            EmotionPrompt(
                text_of(key, where, row["prompt"]),
                emotion_of(key, where, row["emotion"]),
            )
            for where, row in read_table(key, url, section, ["prompt", "emotion"])
        ]
    if not prompts:
        raise JobError(key, url, "there is no prompt in it", "name a file that has some")
    return prompts


def _prompts_of_run(section: PromptSet, key: str, url: str) -> list[EmotionPrompt]:
    """Returns the prompts that `kindling export RUN --format prompts` would write."""
    try:
        emotions, complete = collect_prompts(url, section.per_emotion or PROMPTS_PER_EMOTION)
    except RunError as error:
        raise JobError(key, url, error.cause, "name a file of prompts, or a run of evaluation_prompts") from None
    if not complete:
        raise JobError(key, url, "the run is not complete, and would get other prompts later", "let it end first")
    return [EmotionPrompt(text, emotion) for emotion, collected in emotions.items() for text in collected.prompts]


def read_groups(section: Sentiment) -> dict[str, list[str]]:
    """Groups of emotions: the three groups of the paper, or those of a file.

    Raises:
        JobError: the file cannot be read, or does not put each of the 28 emotions into one group.
    """
    if section.groups is None:
        return {group: sorted(emotions) for group, emotions in PAPER_GROUPS.items()}
    groups = read_json(_GROUPS, section.groups)
    remedy = "write {group: [emotion, ...]} with each of the 28 GoEmotions labels in one group"
    if not isinstance(groups, dict) or not all(
        name.strip() and isinstance(emotions, list) and all(isinstance(emotion, str) for emotion in emotions)
        for name, emotions in groups.items()
    ):
        raise JobError(_GROUPS, section.groups, "not a JSON object with a list of emotions for each group", remedy)
    try:
        groups = {
            name: [emotion for each in emotions for emotion in parse_emotions(each)]
            for name, emotions in groups.items()
        }
        group_of_emotion(groups)
    except ValueError as error:
        raise JobError(_GROUPS, section.groups, str(error), remedy) from None
    return groups


def first_per_emotion(items: Sequence[Item], per_emotion: int | None) -> list[Item]:
    """The first `per_emotion` items of each emotion, in their order; all items where it is None."""
    seen: Counter[str] = Counter()
    kept = []
    for item in items:
        seen[item.emotion] += 1
        if per_emotion is None or seen[item.emotion] <= per_emotion:
            kept.append(item)
    return kept


def content_of(texts: Sequence[Sequence[str | None]]) -> str:
    """Identifies texts by their number and a hash, whatever file they came from."""
    digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()
    return f"{len(texts)}, {digest}"

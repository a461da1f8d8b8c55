"""The emotions of responses, by the emotions of the prompts that they answer (the paper's tables 5 and 17).

A response's emotion is its best label. The groups of the paper's tables, recovered from their own counts, are those of
`schemas.emotions`; they hold for prompts and responses alike.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.intervals import Difference, Rate, paired_difference, rate_of
from schemas.emotions import EMOTIONS, NEGATIVE, NEUTRAL, POSITIVE

PAPER_GROUPS = {"positive": POSITIVE, "neutral": NEUTRAL, "negative": NEGATIVE}
OVERALL = "overall"
# A response without a word has no emotion, and is in no group.
BLANK = ""


@dataclass(frozen=True)
class SentimentRates:
    """Share of the responses in each group, of all and of those to some prompts.

    Attributes:
        overall: by the group of the response.
        by_group: the same of the prompts of each group.
        by_emotion: the same of the prompts of each emotion.
    """

    overall: dict[str, Rate]
    by_group: dict[str, dict[str, Rate]]
    by_emotion: dict[str, dict[str, Rate]]


def group_of_emotion(groups: Mapping[str, Collection[str]]) -> dict[str, str]:
    """The group of each emotion.

    Raises:
        ValueError: an emotion is in no group or in several, or is none of GoEmotions'.
    """
    found: dict[str, str] = {}
    for group, emotions in groups.items():
        for emotion in emotions:
            if emotion not in EMOTIONS:
                raise ValueError(f"{emotion!r} is not one of the 28 GoEmotions labels")
            if emotion in found:
                raise ValueError(f"{emotion} is in two groups, {found[emotion]} and {group}")
            found[emotion] = group
    if missing := [emotion for emotion in EMOTIONS if emotion not in found]:
        raise ValueError(f"{', '.join(missing)} is in no group")
    return found


def top_labels(scores: np.ndarray, texts: Sequence[str]) -> list[str]:
    """The best label of each text; BLANK for one without a word.

    Args:
        scores: of shape (texts, 28), columns in the order of EMOTIONS.
    """
    best = scores.argmax(1) if len(texts) else []
    return [EMOTIONS[label] if text.strip() else BLANK for text, label in zip(texts, best, strict=True)]


def sentiment_rates(
    labels: Sequence[str], emotions: Sequence[str] | None, groups: Mapping[str, Collection[str]]
) -> SentimentRates:
    """The rates of one model.

    Args:
        labels: of its responses, as `top_labels` gives them.
        emotions: of the prompts that they answer; None where that is not known, and there is an overall rate alone.

    Raises:
        ValueError: there are no responses.
    """
    group = {**group_of_emotion(groups), BLANK: BLANK}
    found = [group[label] for label in labels]

    def rates(chosen: list[str]) -> dict[str, Rate]:
        return {each: rate_of(chosen.count(each), len(chosen)) for each in groups}

    def where(values: Sequence[str], kinds: Collection[str]) -> dict[str, dict[str, Rate]]:
        parts = {kind: [each for each, value in zip(found, values, strict=True) if value == kind] for kind in kinds}
        return {kind: rates(part) for kind, part in parts.items() if part}

    if emotions is None:
        return SentimentRates(rates(found), {}, {})
    by_group = where([group[emotion] for emotion in emotions], groups)
    return SentimentRates(rates(found), by_group, where(emotions, sorted(set(emotions))))


def compare_sentiment(
    first: Sequence[str],
    second: Sequence[str],
    emotions: Sequence[str] | None,
    groups: Mapping[str, Collection[str]],
    seed: int,
) -> dict[str, dict[str, Difference]]:
    """Two models on the same prompts.

    Args:
        first, second: labels of their responses, prompt by prompt.
        emotions: of the prompts, or None.
        seed: of the bootstrap.

    Returns:
        by the group of the prompts, and OVERALL: by the group of the response, second less first.

    Raises:
        ValueError: there are no responses, or not the same number of each.
    """
    group = {**group_of_emotion(groups), BLANK: BLANK}
    of_prompts = [OVERALL] * len(first) if emotions is None else [group[emotion] for emotion in emotions]
    parts = {OVERALL: list(range(len(first)))}
    for kind in groups:
        if chosen := [i for i, each in enumerate(of_prompts) if each == kind]:
            parts[kind] = chosen
    return {
        part: {
            each: paired_difference([group[first[i]] == each for i in at], [group[second[i]] == each for i in at], seed)
            for each in groups
        }
        for part, at in parts.items()
    }

"""Emotions of responses, by the emotions of the prompts that they answer (the paper's tables 5 and 17).

Method: the emotion of a response is its best-scored label of the 28 GoEmotions labels. The emotions are joined into
groups, the same ones for prompts and responses. The paper does not list the groups of its tables; those of
`schemas.emotions` are the ones that give the counts in them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.intervals import Difference, Rate, paired_difference, rate_of
from schemas.emotions import EMOTIONS, NEGATIVE, NEUTRAL, POSITIVE

PAPER_GROUPS = {"positive": POSITIVE, "neutral": NEUTRAL, "negative": NEGATIVE}
OVERALL = "overall"
BLANK = ""
"""label of a response without a word: no emotion, and in no group"""


@dataclass(frozen=True)
class SentimentRates:
    """Share of the responses of one model that are in each group.

    Attributes:
        overall: rates over all responses, by the group of the response.
        by_group: group of the prompt -> the same rates over the responses to its prompts.
        by_emotion: emotion of the prompt -> the same rates over the responses to its prompts.
    """

    overall: dict[str, Rate]
    by_group: dict[str, dict[str, Rate]]
    by_emotion: dict[str, dict[str, Rate]]


def group_of_emotion(groups: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Returns the group of each emotion.

    Args:
        groups: group -> its emotions.

    Raises:
        ValueError: an emotion is in no group or in several, or is not a GoEmotions label.
    """
    group_of: dict[str, str] = {}
    for group, emotions in groups.items():
        for emotion in emotions:
            if emotion not in EMOTIONS:
                raise ValueError(f"{emotion!r} is not one of the 28 GoEmotions labels")
            if emotion in group_of:
                raise ValueError(f"{emotion} is in two groups, {group_of[emotion]} and {group}")
            group_of[emotion] = group
    if missing := [emotion for emotion in EMOTIONS if emotion not in group_of]:
        raise ValueError(f"{', '.join(missing)} is in no group")
    return group_of


def top_labels(scores: np.ndarray, texts: Sequence[str]) -> list[str]:
    """Returns the best-scored label of each text; BLANK for a text without a word.

    Args:
        scores: calibrated scores of the texts, shape (texts, 28), columns in the order of EMOTIONS.
        texts: the texts.
    """
    best = scores.argmax(1) if len(texts) else []
    return [EMOTIONS[label] if text.strip() else BLANK for text, label in zip(texts, best, strict=True)]


def sentiment_rates(
    labels: Sequence[str], emotions: Sequence[str] | None, groups: Mapping[str, Collection[str]]
) -> SentimentRates:
    """Computes the rates of one model.

    Args:
        labels: labels of its responses, as `top_labels` gives them.
        emotions: emotions of the prompts, one for each response; None where they are not known, which leaves the
            overall rates alone.
        groups: group -> its emotions.

    Raises:
        ValueError: there are no responses.
    """
    group_of = {**group_of_emotion(groups), BLANK: BLANK}
    response_groups = [group_of[label] for label in labels]

    def rates(chosen: list[str]) -> dict[str, Rate]:
        return {group: rate_of(chosen.count(group), len(chosen)) for group in groups}

    def rates_by(prompt_values: Sequence[str], parts: Collection[str]) -> dict[str, dict[str, Rate]]:
        pairs = list(zip(response_groups, prompt_values, strict=True))
        chosen = {part: [group for group, value in pairs if value == part] for part in parts}
        return {part: rates(groups_of_part) for part, groups_of_part in chosen.items() if groups_of_part}

    if emotions is None:
        return SentimentRates(rates(response_groups), {}, {})
    by_group = rates_by([group_of[emotion] for emotion in emotions], groups)
    return SentimentRates(rates(response_groups), by_group, rates_by(emotions, sorted(set(emotions))))


def compare_sentiment(
    first: Sequence[str],
    second: Sequence[str],
    emotions: Sequence[str] | None,
    groups: Mapping[str, Collection[str]],
    seed: int,
) -> dict[str, dict[str, Difference]]:
    """Compares two models on the same prompts.

    Args:
        first, second: labels of the responses of each model, in the order of the prompts.
        emotions: emotions of the prompts; None where they are not known, which leaves the overall comparison alone.
        groups: group -> its emotions.
        seed: seed of the bootstrap.

    Returns:
        Group of the prompts, or OVERALL -> group of the response -> share in the second model less that in the first.

    Raises:
        ValueError: there are no responses, or the models do not have the same number of them.
    """
    group_of = {**group_of_emotion(groups), BLANK: BLANK}
    prompts_of = {OVERALL: list(range(len(first)))}  # part -> numbers of its prompts
    if emotions is not None:
        for group in groups:
            if numbers := [number for number, emotion in enumerate(emotions) if group_of[emotion] == group]:
                prompts_of[group] = numbers

    def difference(group: str, prompts: list[int]) -> Difference:
        one = [group_of[first[prompt]] == group for prompt in prompts]
        two = [group_of[second[prompt]] == group for prompt in prompts]
        return paired_difference(one, two, seed)

    return {part: {group: difference(group, prompts) for group in groups} for part, prompts in prompts_of.items()}

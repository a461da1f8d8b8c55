"""The GoEmotions taxonomy (Demszky et al., 2020): 27 emotions and neutral, in the order of its label ids.

The three groups are those of the paper's tables 5 and 17. They were recovered from the tables' totals, which are equal
to the means of these emotions' rows, weighted by the number of prompts, to the last digit. GoEmotions itself calls
confusion, curiosity, realization and surprise ambiguous.
"""

import re
from typing import Any

from schemas.text import shorten

EMOTIONS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip

POSITIVE = frozenset(
    {
        "admiration", "amusement", "approval", "caring", "curiosity", "desire", "excitement", "gratitude", "joy",
        "love", "optimism", "pride", "realization", "relief",
    }
)  # fmt: skip
NEUTRAL = frozenset({"surprise", "neutral"})
NEGATIVE = frozenset(EMOTIONS) - POSITIVE - NEUTRAL


def parse_emotions(value: Any) -> list[str]:
    """Returns the emotions that a value names: one label, a list of labels, or a text of several (`joy, love`).

    Case and blank space around a label do not count. A text may be a list as a table writes it: `['joy', 'love']`.

    Raises:
        ValueError: the value is a number or names no emotion, or a label is not one of EMOTIONS.
    """
    if isinstance(value, str):
        text = value.strip()
        value = re.findall(r"[^\s,'\"\[\]]+", text) if text.startswith("[") else re.split(r"[,;|]", text)
    labels = [value] if not isinstance(value, list) else value
    emotions = []
    for label in labels:
        if isinstance(label, int | float):
            raise ValueError(f"has the number {label}, and its file names no labels (ClassLabel) by number")
        name = label.strip().lower() if isinstance(label, str) else label
        if name in EMOTIONS:
            emotions.append(str(name))
        elif name != "":
            raise ValueError(f"{shorten(repr(label))} is not one of the {len(EMOTIONS)} GoEmotions labels")
    if not emotions:
        raise ValueError("has no label")
    return list(dict.fromkeys(emotions))

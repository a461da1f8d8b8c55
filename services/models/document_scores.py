"""The emotions of long texts: scored sentence by sentence and pooled.

A classifier that was trained on comments of a line sees only the beginning of a story, and a story's beginning says
little of what it comes to.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sentencex import segment

from schemas.emotions import EMOTIONS
from services.models.classifier import EmotionClassifier

_TOP = 3


def _top(scores: np.ndarray) -> np.ndarray:
    return np.sort(scores, axis=0)[-_TOP:].mean(0)


POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.max(0),
    "top3": _top,
}
"""From the scores of a text's sentences, (sentences, 28), to its own, (28,). top3: mean of a label's three best."""


def score_documents(
    classifier: EmotionClassifier, texts: Sequence[str], pooling: str = "top3", language: str = "en"
) -> np.ndarray:
    """Scores texts of any length.

    Args:
        pooling: one of POOLINGS.
        language: whose rules tell where a sentence ends (ISO 639).

    Returns:
        float32 of shape (texts, 28); zeros for a text without a word.
    """
    sentences = [[each for each in segment(language, text) if each.strip()] for text in texts]
    scores = classifier.score([each for listed in sentences for each in listed])
    found = np.zeros((len(texts), len(EMOTIONS)), dtype=np.float32)
    at = 0
    for number, listed in enumerate(sentences):
        if listed:
            found[number] = POOLINGS[pooling](scores[at : at + len(listed)])
        at += len(listed)
    return found

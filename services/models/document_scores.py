"""Emotion scores of long texts: each sentence is scored, and the scores are pooled.

A classifier that was trained on one-line comments reads only the beginning of a story, and the beginning says little
about how the story ends.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sentencex import segment

from schemas.emotions import EMOTIONS
from services.models.classifier import EmotionClassifier

_TOP_SENTENCES = 3


def _mean_of_top(scores: np.ndarray) -> np.ndarray:
    return np.sort(scores, axis=0)[-_TOP_SENTENCES:].mean(0)


# Functions from the scores of a text's sentences, shape (sentences, 28), to the scores of the text, shape (28,).
# top3: for each label the mean of its three highest scores.
POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.max(0),
    "top3": _mean_of_top,
}


def score_documents(
    classifier: EmotionClassifier, texts: Sequence[str], pooling: str = "top3", language: str = "en"
) -> np.ndarray:
    """Scores texts of any length.

    Args:
        pooling: one of POOLINGS.
        language: ISO 639 code of the language whose rules split a text into sentences.

    Returns:
        Scores, float32 of shape (texts, 28); zeros for a text without a word.
    """
    sentences = [[sentence for sentence in segment(language, text) if sentence.strip()] for text in texts]
    sentence_scores = classifier.score([sentence for of_text in sentences for sentence in of_text])
    scores = np.zeros((len(texts), len(EMOTIONS)), dtype=np.float32)
    first = 0
    for number, of_text in enumerate(sentences):
        if of_text:
            scores[number] = POOLINGS[pooling](sentence_scores[first : first + len(of_text)])
        first += len(of_text)
    return scores

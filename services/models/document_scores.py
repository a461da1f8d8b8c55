"""Emotion scores of texts of any length: pieces of a text are scored, and the scores are pooled.

A classifier reads so many tokens of a text and no more, and the beginning of a story says little about how it ends. One
sentence says little too, so by default the pieces are passages of several sentences.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit, logit
from sentencex import segment

from schemas.emotions import EMOTIONS
from services.models.classifier import EmotionClassifier

_MAX_PASSAGE_WORDS = 64
_TOP_SENTENCES = 3
_MIN_ODDS_SCORE = 1e-6


def _mean_of_top(scores: np.ndarray) -> np.ndarray:
    return np.sort(scores, axis=0)[-_TOP_SENTENCES:].mean(0)


# Functions from the scores of a text's pieces, shape (pieces, 28), to the scores of the text, shape (28,). Pieces are
# sentences, and with `passages` as many sentences together as have at most 64 words.
# top3: for each label the mean of its three highest scores.
POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "passages": lambda scores: scores.mean(0),
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.max(0),
    "top3": _mean_of_top,
}


def score_documents(
    classifier: EmotionClassifier, texts: Sequence[str], pooling: str = "passages", language: str = "en"
) -> np.ndarray:
    """Scores texts of any length.

    Args:
        pooling: one of POOLINGS, or `whole`: each text is one piece, cut at the classifier's `max_tokens`.
        language: ISO 639 code of the language whose rules split a text into sentences.

    Returns:
        Scores, float32 of shape (texts, 28); of a text without a word zeros, or with `whole` what the classifier says.
    """
    if pooling == "whole":
        return classifier.score(texts)
    pieces = [[sentence for sentence in segment(language, text) if sentence.strip()] for text in texts]
    if pooling == "passages":
        pieces = [_passages(sentences) for sentences in pieces]
    piece_scores = classifier.score([piece for of_text in pieces for piece in of_text])
    scores = np.zeros((len(texts), len(EMOTIONS)), dtype=np.float32)
    first = 0
    for number, of_text in enumerate(pieces):
        if of_text:
            scores[number] = POOLINGS[pooling](piece_scores[first : first + len(of_text)])
        first += len(of_text)
    return scores


def calibrated_scores(classifier: EmotionClassifier, texts: Sequence[str], pooling: str = "passages") -> np.ndarray:
    """Scores texts so that labels can be compared: the emotion that a text expresses is the label with the best score.

    Returns:
        Scores, float32 of shape (texts, 28), 0.5 at the threshold of each label; see `calibrate` and `score_documents`.
    """
    return calibrate(score_documents(classifier, texts, pooling), classifier.thresholds)


def calibrate(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Moves the scores of each label so that its threshold lies at 0.5.

    A classifier of many labels gives rare ones low scores, and neutral a high one. What a text expresses is the label
    that is furthest above its own threshold, in log-odds, and not the one with the highest score. Scores of a
    classifier whose thresholds are all 0.5 stay as they are.

    Args:
        scores: scores from 0 to 1, shape (texts, 28).
        thresholds: threshold of each label, shape (28,).
    """
    bounded = np.clip(scores, _MIN_ODDS_SCORE, 1 - _MIN_ODDS_SCORE)
    return expit(logit(bounded) - logit(thresholds)).astype(np.float32)


def _passages(sentences: Sequence[str]) -> list[str]:
    """Joins sentences to passages of at most 64 words; a longer sentence is a passage of its own."""
    passages: list[str] = []
    words = 0
    for sentence in sentences:
        added = len(sentence.split())
        if passages and words + added <= _MAX_PASSAGE_WORDS:
            passages[-1] += f" {sentence}"
            words += added
        else:
            passages.append(sentence)
            words = added
    return passages

"""Words that name an emotion outright, for each of the 28 labels: "joyful" for joy, "proudly" for pride."""

import re

from schemas.emotions import EMOTIONS

# Beginnings of words, without endings that make another word (`desirable` is no desire).
_FORMS = {
    "admiration": "admir(?:ation|e|ed|es|er|ers|ing|ingly)",
    "amusement": "amus(?:e|ed|es|ing|ingly|ement)",
    "anger": "anger(?:ed|s)?|angry|angrily|angrier",
    "annoyance": "annoy(?:ance|ances|ed|ing|ingly|s)?",
    "approval": "approv(?:al|e|ed|es|ing|ingly)",
    "caring": "caring|caringly",
    "confusion": "confus(?:e|ed|edly|es|ing|ingly|ion)",
    "curiosity": "curiosity|curious|curiously",
    "desire": "desir(?:e|ed|es|ing|ous)",
    "disappointment": "disappoint(?:ed|edly|ing|ingly|ment|ments|s)?",
    "disapproval": "disapprov(?:al|e|ed|es|ing|ingly)",
    "disgust": "disgust(?:ed|edly|ing|ingly|s)?",
    "embarrassment": "embarrass(?:ed|edly|es|ing|ingly|ment)?",
    "excitement": "excit(?:e|ed|edly|es|ing|ingly|ement)",
    "fear": "fear(?:ed|ful|fully|ing|s)?",
    "gratitude": "gratitude|grateful|gratefully",
    "grief": "grief|griev(?:e|ed|es|ing|ous)",
    "joy": "joy(?:ful|fully|ous|ously|s)?|enjoy(?:ed|ing|s)?|overjoyed",
    "love": "lov(?:e|ed|es|ing|ingly)|beloved",
    "nervousness": "nervous(?:ly|ness)?",
    "optimism": "optimis(?:m|t|tic|tically|ts)",
    "pride": "pride|prided|proud(?:er|ly)?",
    "realization": "reali[sz](?:ation|ations|e|ed|es|ing)",
    "relief": "relief|reliev(?:e|ed|edly|es|ing)",
    "remorse": "remorse(?:ful|fully)?",
    "sadness": "sad(?:den|dened|der|ly|ness)?",
    "surprise": "surpris(?:e|ed|es|ing|ingly)",
}
_WORDS = {emotion: re.compile(rf"\b(?:{forms})\b", re.IGNORECASE) for emotion, forms in _FORMS.items()}


def names_emotion(text: str, emotion: str) -> bool:
    """Returns whether a text names an emotion outright.

    Args:
        text: the text.
        emotion: one of the 28 labels; "" and `neutral` are named by no word.
    """
    return emotion in _WORDS and bool(_WORDS[emotion].search(text))


assert _FORMS.keys() == set(EMOTIONS) - {"neutral"}

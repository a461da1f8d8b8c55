"""The GoEmotions taxonomy (Demszky et al., 2020): 27 emotions and neutral, in the order of its label ids.

The three groups are those of the paper's tables 5 and 17. They were recovered from the tables' totals, which are equal
to the means of these emotions' rows, weighted by the number of prompts, to the last digit. GoEmotions itself calls
confusion, curiosity, realization and surprise ambiguous.
"""

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

"""Judges: the probabilities of a few answers, of which the model writes one in one token."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.rows import RowError

CHOICES = "choices"
"""key of a request's sampling, beside those of `schemas.job.Sampling`: texts of which the model chooses one. The engine
writes one token, and returns the probability of each text"""

# A judge that gives its choices less probability than this together was not asked in a way that it understands.
_MIN_PROBABILITY = 0.01


def choice_tokens(tokenizer: Any, choices: Sequence[str]) -> list[set[int]]:
    """Returns, for each choice, the ids of the tokens by which an answer with it may begin: `yes`, ` yes`, `Yes`.

    Args:
        tokenizer: a Hugging Face tokenizer.
        choices: texts of which the model chooses one.

    Raises:
        ValueError: two choices begin with the same token.
    """
    ids = [
        {
            tokenizer.encode(blank + word, add_special_tokens=False)[0]
            for blank in ("", " ")
            for word in (choice, choice.capitalize())
        }
        for choice in choices
    ]
    own = [each.difference(*(other for other in ids if other is not each)) for each in ids]
    if not all(own):
        raise ValueError(f"of the choices {', '.join(choices)} two begin with the same token of this model")
    return own


def choice_probabilities(
    choices: Sequence[str], tokens: Sequence[set[int]], logprobs: Mapping[int, float]
) -> tuple[float, ...]:
    """Returns the probability of each choice among all choices; together 1.

    Args:
        choices: texts of which the model chooses one.
        tokens: result of `choice_tokens`.
        logprobs: natural logarithm of the probability of tokens.

    Raises:
        RowError: the model gives the choices next to no probability: it would answer something else.
    """
    weights = [sum(math.exp(logprobs[token]) for token in ids if token in logprobs) for ids in tokens]
    if (total := sum(weights)) < _MIN_PROBABILITY:
        raise RowError(f"the model gives the answers {', '.join(choices)} together a probability of {total:.1%}")
    return tuple(weight / total for weight in weights)

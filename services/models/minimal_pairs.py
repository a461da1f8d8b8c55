"""Scores minimal pairs as in BLiMP: a good model finds the grammatical sentence likelier than the other one.

A sentence is scored as in lm-evaluation-harness' BLiMP tasks (backend `hf`). A blank is put before the sentence. In
front stands the model's begin-of-text token, or its end-of-text token if it has none, and no other special token. The
score is the sum of the log-likelihoods of all later tokens. A tie counts as wrong here, and as right in the harness'
metric `acc`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.models.continuations import batch_log_likelihoods, begin_token, refuse_long_sequences
from services.models.diverged import refuse_diverged
from services.models.prefix_trees import common_prefix_length, continuation_log_likelihoods, supports_prefix_trees

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SCORES = "log-likelihoods of sentences"


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences of which a good model finds the good one likelier; they differ in little, or their contexts do.

    Attributes:
        paradigm: name of the difference, as in BLiMP.
        good: the grammatical sentence.
        bad: the ungrammatical sentence.
        good_context, bad_context: text before each sentence, which is not scored itself; mostly "". A pair of EWoK has
            the same sentence after a context in which it is true, and after one in which it is not.
    """

    paradigm: str
    good: str
    bad: str
    good_context: str = ""
    bad_context: str = ""

    @property
    def texts(self) -> tuple[str, str]:
        """The good and the bad sentence, each after its context."""
        if not self.good_context:
            return self.good, self.bad
        return f"{self.good_context} {self.good}", f"{self.bad_context} {self.bad}"


def good_is_likelier(model: "PreTrainedModel", tokenizer: Any, pairs: Sequence[MinimalPair]) -> np.ndarray:
    """Compares the sentences of each pair.

    Returns:
        Whether the model finds the good sentence of each pair likelier than the bad one, bool of shape (pairs,).

    Raises:
        EngineError: a sentence is longer than the model's context, or the model has diverged.
    """
    scores = _in_batches(model, tokenizer, *_sequences(model, tokenizer, _sentences(pairs), _contexts(pairs)))
    return scores[::2] > scores[1::2]


def margins(model: "PreTrainedModel", tokenizer: Any, pairs: Sequence[MinimalPair]) -> np.ndarray:
    """Computes the log-likelihood of the good sentence of each pair minus that of the bad one.

    The result equals the difference of `log_likelihoods`. It is faster if the model supports prefix trees: a shared
    beginning is computed once, and the beginning that both sentences of a pair share is left out of both sums.

    Returns:
        Margins in nats, float64 of shape (pairs,).

    Raises:
        EngineError: a sentence is longer than the model's context, or the model has diverged.
    """
    ids, starts = _sequences(model, tokenizer, _sentences(pairs), _contexts(pairs))
    if not supports_prefix_trees(model):
        scores = _in_batches(model, tokenizer, ids, starts)
    else:
        shared = [common_prefix_length(good, bad) for good, bad in zip(ids[::2], ids[1::2], strict=True)]
        starts = [max(start, shared[number // 2]) for number, start in enumerate(starts)]
        scores = continuation_log_likelihoods(model, ids, starts)
        refuse_diverged(scores, tokenizer.name_or_path, _SCORES)
    return scores[::2] - scores[1::2]


def _sentences(pairs: Sequence[MinimalPair]) -> list[str]:
    """Sentences of all pairs: good, bad, good, bad."""
    return [sentence for pair in pairs for sentence in (pair.good, pair.bad)]


def _contexts(pairs: Sequence[MinimalPair]) -> list[str]:
    return [context for pair in pairs for context in (pair.good_context, pair.bad_context)]


def log_likelihoods(model: "PreTrainedModel", tokenizer: Any, sentences: Sequence[str]) -> np.ndarray:
    """Computes the log-likelihood of each whole sentence.

    Args:
        model: a causal model in evaluation mode; it is used in its own precision.

    Returns:
        Log-likelihoods in nats, float64 of shape (sentences,).

    Raises:
        EngineError: a sentence is longer than the model's context, or the model has diverged.
    """
    return _in_batches(model, tokenizer, *_sequences(model, tokenizer, sentences, [""] * len(sentences)))


def _in_batches(
    model: "PreTrainedModel", tokenizer: Any, sequences: Sequence[list[int]], starts: Sequence[int]
) -> np.ndarray:
    scores = batch_log_likelihoods(model, sequences, starts)
    refuse_diverged(scores, tokenizer.name_or_path, _SCORES)
    return scores


def _sequences(
    model: "PreTrainedModel", tokenizer: Any, sentences: Sequence[str], contexts: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each sentence after the begin-of-text token and its context, and the sentence's first token."""
    begin = begin_token(tokenizer)
    before = [[begin, *ids] for ids in _ids(tokenizer, contexts)]
    sequences = [[*context, *ids] for context, ids in zip(before, _ids(tokenizer, sentences), strict=True)]
    refuse_long_sequences(model, tokenizer, sequences, "a sentence", "leave the paradigm of this sentence out")
    return sequences, [len(context) for context in before]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    blank_before = [f" {text}" if text else "" for text in texts]
    ids: list[list[int]] = tokenizer(blank_before, add_special_tokens=False, verbose=False)["input_ids"]
    return ids

"""Scores minimal pairs as in BLiMP: a good model finds the grammatical sentence likelier than the other one.

A sentence is scored as in lm-evaluation-harness' BLiMP tasks (backend `hf`). A blank is put before the sentence. In
front stands the model's begin-of-text token, or its end-of-text token if it has none, and no other special token. The
score is the sum of the log-likelihoods of all later tokens. A tie counts as wrong here, and as right in the harness'
metric `acc`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from schemas.errors import EngineError
from services.models.diverged import refuse_diverged
from services.models.prefix_trees import common_prefix_length, continuation_log_likelihoods, supports_prefix_trees

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of a batch, padding included. Their logits take 200 MB for a vocabulary of 50,000 tokens.
_BATCH_TOKENS = 1024
_IGNORED_TARGET = -100
_SCORES = "log-likelihoods of sentences"


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences that differ in little but grammar.

    Attributes:
        paradigm: name of the grammatical difference, as in BLiMP.
        good: the grammatical sentence.
        bad: the ungrammatical sentence.
    """

    paradigm: str
    good: str
    bad: str


def good_is_likelier(model: "PreTrainedModel", tokenizer: Any, pairs: Sequence[MinimalPair]) -> np.ndarray:
    """Compares the sentences of each pair.

    Returns:
        Whether the model finds the good sentence of each pair likelier than the bad one, bool of shape (pairs,).

    Raises:
        EngineError: a sentence is longer than the model's context, or the model has diverged.
    """
    scores = log_likelihoods(model, tokenizer, _sentences(pairs))
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
    if not supports_prefix_trees(model):
        scores = log_likelihoods(model, tokenizer, _sentences(pairs))
    else:
        ids = _token_ids(model, tokenizer, _sentences(pairs))
        shared = [common_prefix_length(good, bad) for good, bad in zip(ids[::2], ids[1::2], strict=True)]
        scores = continuation_log_likelihoods(model, ids, [start for start in shared for _ in range(2)])
        refuse_diverged(scores, tokenizer.name_or_path, _SCORES)
    return scores[::2] - scores[1::2]


def _sentences(pairs: Sequence[MinimalPair]) -> list[str]:
    """Sentences of all pairs: good, bad, good, bad."""
    return [sentence for pair in pairs for sentence in (pair.good, pair.bad)]


@torch.no_grad()
def log_likelihoods(model: "PreTrainedModel", tokenizer: Any, sentences: Sequence[str]) -> np.ndarray:
    """Computes the log-likelihood of each whole sentence.

    Args:
        model: a causal model in evaluation mode; it is used in its own precision.

    Returns:
        Log-likelihoods in nats, float64 of shape (sentences,).

    Raises:
        EngineError: a sentence is longer than the model's context, or the model has diverged.
    """
    ids = _token_ids(model, tokenizer, sentences)
    lengths = [len(tokens) for tokens in ids]
    device, scores = next(model.parameters()).device, np.zeros(len(ids))
    for batch in _batches(lengths):
        rows = [torch.tensor(ids[number]) for number in batch]
        # Padding stands after the sentence, where a causal model does not look; so any token will do, and no mask.
        inputs = pad_sequence([row[:-1] for row in rows], batch_first=True, padding_value=ids[0][0]).to(device)
        targets = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=_IGNORED_TARGET).to(device)
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED_TARGET, reduction="none")
        scores[batch] = -losses.view_as(targets).double().sum(1).cpu().numpy()
    refuse_diverged(scores, tokenizer.name_or_path, _SCORES)
    return scores


def _token_ids(model: "PreTrainedModel", tokenizer: Any, sentences: Sequence[str]) -> list[list[int]]:
    """Token ids of each sentence after the begin-of-text token."""
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    texts = [f" {sentence}" for sentence in sentences]
    ids = [[begin, *tokens] for tokens in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    lengths = [len(tokens) for tokens in ids]
    max_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_tokens and max(lengths) > max_tokens + 1:  # the last token is never an input
        longest = sentences[int(np.argmax(lengths))]
        cause = f"a sentence has {max(lengths) - 1} tokens, and the model takes {max_tokens}: {longest}"
        raise EngineError("model.id", tokenizer.name_or_path, cause, "leave the paradigm of this sentence out")
    return ids


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Groups sentences of similar length; yields their numbers."""
    batch: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[number] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch

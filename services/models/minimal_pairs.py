"""Minimal pairs, as BLiMP has them: two sentences, of which one is grammatical, and a good model finds that likelier.

A sentence is scored as lm-evaluation-harness does for its BLiMP tasks (backend `hf`): a blank before it; in front the
model's begin-of-text token, or its end-of-text token where it has none, and no other special token; the log-likelihoods
of all tokens behind that one are added up. A tie is wrong here, and right for the `acc` of that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from schemas.errors import EngineError
from services.models.prefix_trees import common_beginning, follows_trees, log_likelihoods_from

# So many logits of the vocabulary are in memory together: 200 MB of them where it has 50,000 tokens.
_TOKENS_AT_ONCE = 1024
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences that differ in little but grammar.

    Attributes:
        paradigm: what they differ in, as BLiMP names it.
    """

    paradigm: str
    good: str
    bad: str


def right(model: torch.nn.Module, tokenizer: Any, pairs: Sequence[MinimalPair]) -> np.ndarray:
    """Whether a model finds the good sentence of each pair likelier than the bad one; bool, of shape (pairs,).

    Raises:
        EngineError: a sentence is longer than the model takes.
    """
    found = log_likelihoods(model, tokenizer, [sentence for pair in pairs for sentence in (pair.good, pair.bad)])
    return found[::2] > found[1::2]


def margins(model: torch.nn.Module, tokenizer: Any, pairs: Sequence[MinimalPair]) -> np.ndarray:
    """How much likelier a model finds the good sentence of each pair than the bad one; in nats, float64, (pairs,).

    The same as the difference of `log_likelihoods`, but faster where the model follows trees: what begins alike is
    computed once, and what both sentences of a pair begin with is left out of both sums.

    Raises:
        EngineError: a sentence is longer than the model takes.
    """
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    if not follows_trees(model):
        found = log_likelihoods(model, tokenizer, sentences)
    else:
        ids = _token_ids(model, tokenizer, sentences)
        alike = [common_beginning(good, bad) for good, bad in zip(ids[::2], ids[1::2], strict=True)]
        found = log_likelihoods_from(model, ids, [start for start in alike for _ in range(2)])
    return found[::2] - found[1::2]


@torch.no_grad()
def log_likelihoods(model: torch.nn.Module, tokenizer: Any, sentences: Sequence[str]) -> np.ndarray:
    """The log-likelihood of each whole sentence, in nats; float64, of shape (sentences,).

    Args:
        model: a causal one of transformers, in evaluation mode; scored in the precision that it is in.

    Raises:
        EngineError: a sentence is longer than the model takes.
    """
    ids = _token_ids(model, tokenizer, sentences)
    lengths = [len(each) for each in ids]
    device, found = next(model.parameters()).device, np.zeros(len(ids))
    for batch in _batches(lengths):
        rows = [torch.tensor(ids[number]) for number in batch]
        inputs = pad_sequence([row[:-1] for row in rows], batch_first=True, padding_value=ids[0][0]).to(device)
        targets = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=_IGNORED).to(device)
        # Padding lies behind, where a causal model does not look.
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction="none")
        found[batch] = -losses.view_as(targets).double().sum(1).cpu().numpy()
    return found


def _token_ids(model: torch.nn.Module, tokenizer: Any, sentences: Sequence[str]) -> list[list[int]]:
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    texts = [f" {sentence}" for sentence in sentences]
    ids = [[begin, *found] for found in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    lengths = [len(each) for each in ids]
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most and max(lengths) > most + 1:  # nothing is asked for behind the last token
        cause = f"a sentence has {max(lengths) - 1} tokens, and the model takes {most}: {sentences[np.argmax(lengths)]}"
        raise EngineError("model.id", tokenizer.name_or_path, cause, "leave the paradigm of this sentence out")
    return ids


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of sentences of like lengths."""
    batch: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[number] > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch

"""Logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"): the next token that each layer would predict.

Method: the output of a block goes straight to the end of the model: its final norm, its unembedding, and whatever it
does to the logits (Gemma caps them, Granite and Cohere scale them). To get all of this exactly as the model does it,
the model runs again with blocks that compute nothing and return the states of the layer in question. So this file names
no architecture.

Invariant: the lens of the last layer gives the model's own logits. A model for which this fails is refused.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from schemas.errors import EngineError, JobError
from services.models.diverged import refuse_diverged

MAX_TOKENS = 100
"""maximum number of tokens in a text; nobody reads a picture with more columns"""
# Allowed difference between the logits of the last layer and the model's own. The same operations run twice, so most
# often there is none.
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LensReading:
    """Predictions of the next token, by layer and position of one text.

    Layer 0 is the embeddings, the last layer is the model's output. Arrays have the shape (layers + 1, positions) where
    nothing else is said. A prediction at a position is about the token after it.

    Attributes:
        text: the text.
        token_ids: token ids of the text, with the special tokens that its tokenizer adds, shape (positions,).
        tokens: the same tokens as texts.
        top_ids: ids of the likeliest tokens.
        top: the likeliest tokens as texts, a list of layers.
        probability: probability of the likeliest token.
        final_probability: probability of the token that is the likeliest one in the last layer.
        entropy: entropy of the distribution over the vocabulary, in bits.
    """

    text: str
    token_ids: np.ndarray
    tokens: list[str]
    top_ids: np.ndarray
    top: list[list[str]]
    probability: np.ndarray
    final_probability: np.ndarray
    entropy: np.ndarray

    @property
    def settled(self) -> np.ndarray:
        """Booleans: whether the likeliest token of a layer is already that of the last layer."""
        return self.top_ids == self.top_ids[-1]

    @property
    def settles_at(self) -> np.ndarray:
        """Number of the layer from which on the likeliest token stays that of the last layer, shape (positions,)."""
        # One more than the last layer that differs; 0 where none does.
        layers = np.arange(1, len(self.top) + 1)[:, None]
        return (layers * ~self.settled).max(axis=0)


def logit_lens(model: Any, tokenizer: Any, text: str) -> LensReading:
    """Reads a text with a model, and predicts the next token from each layer.

    Args:
        model: causal language model of transformers, in any precision, on any device; it is put into evaluation mode.
        tokenizer: tokenizer of the model.
        text: text to read as it is, without a chat template.

    Raises:
        JobError: the text has no token, or more than `MAX_TOKENS`, or more than the model takes.
        EngineError: the model is not built as a row of blocks, the lens of its last layer does not give its logits, or
            the model has diverged.
    """
    model.eval()
    ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS
    if not 0 < ids.shape[1] <= min(MAX_TOKENS, context):
        cause = f"it has {ids.shape[1]} tokens, and the lens takes from 1 to {min(MAX_TOKENS, context)} of this model"
        raise JobError("logit_lens.texts", text, cause, "give a sentence or two")
    with torch.inference_mode():
        logits_of_layers = map(partial(_refuse_diverged, tokenizer.name_or_path), _logits_of_layers(model, ids))
        final_ids = next(logits_of_layers).argmax(-1)
        measures = [_measure(logits, final_ids) for logits in logits_of_layers]
    top_ids, probability, final_probability, entropy = (
        torch.stack(by_layer).cpu().numpy() for by_layer in zip(*measures, strict=True)
    )
    text_of = _token_text(tokenizer)
    token_ids = ids[0].cpu().numpy()
    return LensReading(
        text=text, token_ids=token_ids, tokens=[text_of(token) for token in token_ids], top_ids=top_ids,
        top=[[text_of(token) for token in layer] for layer in top_ids], probability=probability,
        final_probability=final_probability, entropy=entropy,
    )  # fmt: skip


def _logits_of_layers(model: Any, ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yields logits of shape (positions, vocabulary): the model's own, then those of each layer from the embeddings on.

    Only one layer's logits are in memory at a time.
    """
    blocks = _blocks(model)
    states: list[torch.Tensor] = []  # input of the first block, then output of each block
    outputs: list[Any] = []  # output of each block in its own form: a tensor, a tuple or a list

    # The states are cloned, because a block may compute in place on what the one before it returned.
    def keep_input(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append((args[0] if args else kwargs["hidden_states"]).clone())

    def keep_output(_: Any, __: Any, output: Any) -> None:
        states.append((output if isinstance(output, torch.Tensor) else output[0]).clone())
        outputs.append(output)

    with contextlib.ExitStack() as hooks:
        hooks.callback(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True).remove)
        for block in blocks:
            hooks.callback(block.register_forward_hook(keep_output).remove)
        own_logits = model(input_ids=ids).logits[0]
    if len(states) != len(blocks) + 1:
        raise _unsupported(model, f"its {len(blocks)} blocks do not run once each")
    yield own_logits
    for state in states:
        with _blocks_returning(state, blocks, outputs):
            logits = model(input_ids=ids).logits[0]
        yield logits
    if not torch.allclose(logits, own_logits, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise _unsupported(model, "the output of its last block does not lead to its own logits")


@contextlib.contextmanager
def _blocks_returning(state: torch.Tensor, blocks: torch.nn.ModuleList, outputs: list[Any]) -> Iterator[None]:
    """Inside the block of code, each block of the model returns the given state, in the form of its own output."""
    # `forward` is found in the instance only where somebody has replaced it there, as accelerate does.
    replaced = [vars(block).get("forward") for block in blocks]
    for block, output in zip(blocks, outputs, strict=True):
        # A block may return more than its state, and the model may unpack it: so the form is kept.
        result = state if isinstance(output, torch.Tensor) else type(output)([state, *output[1:]])
        block.forward = lambda *_, result=result, **__: result
    try:
        yield
    finally:
        for block, forward in zip(blocks, replaced, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _blocks(model: Any) -> torch.nn.ModuleList:
    """Returns the model's blocks: the outermost list of modules that is as long as its configuration says."""
    layers = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers:
            return module
    raise _unsupported(model, f"it contains no row of {layers} blocks")


def _refuse_diverged(name: str, logits: torch.Tensor) -> torch.Tensor:
    refuse_diverged(logits, name, "logits of a layer")
    return logits


def _measure(logits: torch.Tensor, final_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns ids and probability of the likeliest tokens, probability of `final_ids`, and entropy in bits.

    Args:
        logits: logits of one layer, shape (positions, vocabulary).
        final_ids: likeliest tokens of the last layer, shape (positions,).

    Returns:
        Four tensors of shape (positions,).
    """
    # Of the logits and not of the log-probabilities: two logits that are close may round to equal log-probabilities.
    top_ids = logits.argmax(-1)
    log_probabilities = logits.float().log_softmax(-1)
    probability, final_probability = (
        log_probabilities.gather(-1, ids[:, None])[:, 0].exp() for ids in (top_ids, final_ids)
    )
    entropy = torch.special.entr(log_probabilities.exp()).sum(-1) / math.log(2)
    return top_ids, probability, final_probability, entropy


def _token_text(tokenizer: Any) -> Callable[[int], str]:
    """Returns a function from a token id to its text as it is after another token.

    A token is decoded behind an "a", because many tokenizers drop the space of a word that comes first.
    """
    anchor = tokenizer("a", add_special_tokens=False).input_ids[-1:]

    def decode(*ids: int) -> str:
        return tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)

    anchor_length = len(decode())
    return lambda token: decode(token)[anchor_length:]


def _unsupported(model: Any, cause: str) -> EngineError:
    return EngineError(
        "logit_lens", type(model).__name__, f"the lens does not support this architecture: {cause}",
        "leave logit_lens out of `evaluations` for this model",
    )  # fmt: skip

"""The logit lens (nostalgebraist 2020): what a language model would say next if it ended after each of its layers.

What comes out of a block goes straight to the model's own end: its final norm, its unembedding, and whatever it does to
the logits (Gemma caps them, Granite and Cohere scale them). To have all of that as the model has it, we run the model
again with blocks that compute nothing and answer with the layer in question. So no architecture is named here.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from schemas.errors import EngineError, JobError

# More columns than that nobody reads. Logits (tokens x vocabulary) are in memory for one layer at a time.
MAX_TOKENS = 100
# Of the logits. The same operations run twice, so that most often there is no difference at all.
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LensReading:
    """What stands on top in each layer at each position. Layer 0 is the embeddings, the last one is the model's output.

    The arrays have the shape (layers + 1, positions); what is at a position is about the token after it.
    """

    text: str
    token_ids: np.ndarray
    """(positions,), of the text as the model reads it, with the special tokens that its tokenizer adds"""
    tokens: list[str]
    """the same as texts"""
    top_ids: np.ndarray
    top: list[list[str]]
    """the likeliest token"""
    probability: np.ndarray
    """of the likeliest token"""
    final_probability: np.ndarray
    """of the token that is the likeliest in the last layer"""
    entropy: np.ndarray
    """of the distribution over the vocabulary, in bits"""

    @property
    def settled(self) -> np.ndarray:
        """Where the likeliest token is already that of the last layer."""
        return self.top_ids == self.top_ids[-1]

    @property
    def settles_at(self) -> np.ndarray:
        """The layer from which on the likeliest token stays that of the last layer, of shape (positions,)."""
        layers = np.arange(1, len(self.top) + 1)[:, None]
        return (layers * ~self.settled).max(axis=0)


def logit_lens(model: Any, tokenizer: Any, text: str) -> LensReading:
    """Reads a text through the lens.

    Args:
        model: a causal language model of transformers, in any precision, on any device; it is put into evaluation mode.
        text: read as it is, without a chat template.

    Raises:
        JobError: the text has no token, or more than `MAX_TOKENS`, or more than the model takes.
        EngineError: the model is not built as a row of blocks, or its last layer does not give its own logits.
    """
    model.eval()
    ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS
    if not 0 < ids.shape[1] <= min(MAX_TOKENS, context):
        cause = f"it has {ids.shape[1]} tokens, and the lens takes from 1 to {min(MAX_TOKENS, context)} of this model"
        raise JobError("logit_lens.texts", text, cause, "give a sentence or two")
    with torch.inference_mode():
        layers = _layers(model, ids)
        final = next(layers).argmax(-1)
        measures = [_measures(logits, final) for logits in layers]
    top_ids, probability, final_probability, entropy = (
        torch.stack(each).cpu().numpy() for each in zip(*measures, strict=True)
    )
    show = _shown(tokenizer)
    token_ids = ids[0].cpu().numpy()
    return LensReading(
        text=text, token_ids=token_ids, tokens=[show(token) for token in token_ids], top_ids=top_ids,
        top=[[show(token) for token in layer] for layer in top_ids], probability=probability,
        final_probability=final_probability, entropy=entropy,
    )  # fmt: skip


def _layers(model: Any, ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """The logits (positions, vocabulary) of the model itself, then of each layer from the embeddings on."""
    blocks = _blocks(model)
    states: list[torch.Tensor] = []
    outputs: list[Any] = []

    # Clones, as a model may go on in the same memory.
    def keep_input(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        states.append((args[0] if args else kwargs["hidden_states"]).clone())

    def keep_output(_: Any, __: Any, output: Any) -> None:
        states.append((output if isinstance(output, torch.Tensor) else output[0]).clone())
        outputs.append(output)

    with contextlib.ExitStack() as hooks:
        hooks.callback(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True).remove)
        for block in blocks:
            hooks.callback(block.register_forward_hook(keep_output).remove)
        own = model(input_ids=ids).logits[0]
    if len(states) != len(blocks) + 1:
        raise _unreadable(model, f"its {len(blocks)} blocks do not run once each")
    yield own
    for state in states:
        with _answering(blocks, outputs, state):
            logits = model(input_ids=ids).logits[0]
        yield logits
    if not torch.allclose(logits, own, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise _unreadable(model, "what its last block gives does not lead to its own logits")


@contextlib.contextmanager
def _answering(blocks: torch.nn.ModuleList, outputs: list[Any], state: torch.Tensor) -> Iterator[None]:
    """Inside the `with`, each block gives that state, whatever goes into it, in the form of its own output."""
    before = [vars(block).get("forward") for block in blocks]
    for block, output in zip(blocks, outputs, strict=True):
        answer = state if isinstance(output, torch.Tensor) else type(output)([state, *output[1:]])  # tuple or list
        block.forward = lambda *_, answer=answer, **__: answer
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _blocks(model: Any) -> torch.nn.ModuleList:
    """The model's blocks: its first list of modules, from the outside in, that is as long as its configuration says."""
    layers = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers:
            return module
    raise _unreadable(model, f"no row of {layers} blocks is found in it")


def _measures(logits: torch.Tensor, final: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The likeliest token, its probability, that of the tokens `final`, and the entropy in bits; (positions,) each."""
    top_ids = logits.argmax(-1)  # not of the logarithms, in which two that lie close may become one
    logarithms = logits.float().log_softmax(-1)
    probability, final_probability = (logarithms.gather(-1, ids[:, None])[:, 0].exp() for ids in (top_ids, final))
    entropy = torch.special.entr(logarithms.exp()).sum(-1) / math.log(2)
    return top_ids, probability, final_probability, entropy


def _shown(tokenizer: Any) -> Callable[[int], str]:
    """Texts of single tokens, as they are after another one: alone, many tokenizers drop the space before a word."""
    anchor = tokenizer("a", add_special_tokens=False).input_ids[-1:]

    def text(*ids: int) -> str:
        return tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)

    before = len(text())
    return lambda token: text(token)[before:]


def _unreadable(model: Any, cause: str) -> EngineError:
    return EngineError(
        "logit_lens", type(model).__name__, f"the lens cannot read this architecture: {cause}",
        "leave logit_lens out of `evaluations` for this model",
    )  # fmt: skip

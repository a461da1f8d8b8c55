"""Vocabulary projection and loss on a CPU: computed only where a token has a label, in one product of matrices.

Invariant: loss and gradients are those of the model's own forward pass over the whole batch, up to rounding; only the
work for positions without a label is left out.

Where Triton is missing, TRL's own head scores prompts and padding too, computes all logits twice, and multiplies
gradients in fp32. The projection has 21% of SmolLM2-135M's weights, and its output is larger than all else that a batch
computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad

from trainers.examples import IGNORED_LABEL

# Above so many logits in a batch TRL's head is better, as it holds a small part of them at a time. 2**28 logits take
# 2.7 GB with their gradient.
_MAX_LOGITS = 2**28


def labelled_positions(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the positions of a batch whose next token has a label.

    Returns:
        A mask of shape (batch, length), and the labels of the positions in it, in row-major order, of shape (tokens,).
    """
    labels = inputs["labels"][:, 1:]
    is_labelled = labels != IGNORED_LABEL
    # The last position of a row has no next token.
    return pad(is_labelled, (0, 1)), labels[is_labelled]


def fits_on_cpu(model: Any, inputs: dict[str, Any]) -> bool:
    """Returns whether `labelled_losses` may take a batch: it lies on a CPU, and memory can hold all of its logits."""
    labels = inputs["labels"]
    if labels.device.type != "cpu":  # counting labels on a GPU would wait for all its work in flight
        return False
    return int((labels != IGNORED_LABEL).sum()) * model.config.get_text_config().vocab_size <= _MAX_LOGITS


def labelled_logits(model: Any, inputs: dict[str, Any], is_labelled: torch.Tensor) -> torch.Tensor:
    """Computes the logits of some positions of a batch, by the model's own forward pass.

    Args:
        model: causal language model, with or without adapters.
        inputs: arguments of its forward pass; `labels` among them are left out.
        is_labelled: mask of the positions, shape (batch, length).

    Returns:
        float32 of shape (positions, vocabulary).
    """
    arguments = {name: value for name, value in inputs.items() if name != "labels"}
    with _projects_only(model.get_output_embeddings(), is_labelled):
        return model(**{**arguments, "use_cache": False}).logits.float()


def labelled_losses(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Computes the negative log-likelihood of each labelled token of a batch, in row-major order; shape (tokens,)."""
    is_labelled, labels = labelled_positions(inputs)
    return cross_entropy(labelled_logits(model, inputs, is_labelled), labels, reduction="none")


def loss_near_base(
    logits: torch.Tensor, base_log_probabilities: torch.Tensor, labels: torch.Tensor, kl: float
) -> torch.Tensor:
    """Computes negative log-likelihood + kl x KL(base || model), summed over the labelled tokens.

    The KL term keeps the model's next-token distribution near that of the model that the stage began with. It is the
    distillation term of learning without forgetting (Li and Hoiem 2016), taken on the tokens that are trained on.

    Args:
        logits: logits of the trained model, shape (tokens, vocabulary).
        base_log_probabilities: log-softmax of the first model's logits, same shape.
        labels: token ids, shape (tokens,).
        kl: weight of the divergence.
    """
    likelihood = cross_entropy(logits, labels, reduction="sum")
    # kl_div(input, target) is KL(target || input).
    divergence = kl_div(log_softmax(logits, dim=-1), base_log_probabilities, log_target=True, reduction="sum")
    return likelihood + kl * divergence


@contextmanager
def _projects_only(head: torch.nn.Module, is_labelled: torch.Tensor) -> Iterator[None]:
    """Inside the block, the vocabulary projection gets the hidden states of the labelled positions alone.

    The states arrive as (batch, length, width) and leave as (positions, width). What a model does to its logits after
    the projection (scaling, capping) works on each position by itself, so it needs no change.
    """
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][is_labelled], *args[1:]))
    try:
        yield
    finally:
        hook.remove()

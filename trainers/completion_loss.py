"""The vocabulary projection and the loss on a CPU: at labelled positions alone, in one product of matrices.

TRL's head scores prompts and padding too where there is no Triton, computes all logits twice, and multiplies gradients
in fp32. The projection is 21% of SmolLM2-135M's weights, and larger than all else that a batch computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from trainers.examples import IGNORED

# Logits of a batch, above which TRL's head is better, as it holds a tile of them at a time: 2**28 take 2.7 GB with
# their gradient.
_MOST_LOGITS = 2**28


def labels_of(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which positions have a next token that the loss is of, shape (batch, length), and these tokens in their order."""
    labels = inputs["labels"][:, 1:]
    counted = labels != IGNORED
    return torch.nn.functional.pad(counted, (0, 1)), labels[counted]


def fits(model: Any, inputs: dict[str, Any]) -> bool:
    """Whether a batch is for `labelled_losses`: it lies on a CPU, and its logits are not too many to be held."""
    labels = inputs["labels"]
    if labels.device.type != "cpu":  # to count labels on a GPU is to wait for it
        return False
    return int((labels != IGNORED).sum()) * model.config.get_text_config().vocab_size <= _MOST_LOGITS


def labelled_logits(model: Any, inputs: dict[str, Any], counted: torch.Tensor) -> torch.Tensor:
    """The logits at some positions, by the model's own forward pass.

    Args:
        model: a causal one; wrapped in adapters or not.
        inputs: what it takes, and maybe `labels`, which are left out.
        counted: which positions, shape (batch, length).

    Returns:
        float32 of shape (positions, vocabulary).
    """
    given = {name: value for name, value in inputs.items() if name != "labels"}
    with _projected_at(model.get_output_embeddings(), counted):
        return model(**{**given, "use_cache": False}).logits.float()


def labelled_losses(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The negative log-likelihood of each labelled token of a batch, in order; shape (tokens,)."""
    counted, labels = labels_of(inputs)
    return cross_entropy(labelled_logits(model, inputs, counted), labels, reduction="none")


@contextmanager
def _projected_at(head: torch.nn.Module, counted: torch.Tensor) -> Iterator[None]:
    """Hands a head the states at `counted` in place of all: all that a model does to logits is done one by one."""
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][counted], *given[1:]))
    try:
        yield
    finally:
        hook.remove()

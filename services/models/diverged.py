"""A model whose numbers are NaN or infinite has diverged: one error names it, and no figure is made of its numbers.

Comparisons hide such numbers: `nan >= 0` is False, and would count as a wrong answer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from schemas.errors import EngineError

_REMEDY = "train it again with a lower learning rate, evaluate it in another dtype, or leave it out"


def refuse_diverged(values: np.ndarray | torch.Tensor, model: str, what: str, key: str = "model.id") -> None:
    """Refuses a model with a number that is not finite.

    Args:
        values: numbers that the model computed.
        model: id or path of the model.
        what: noun for the numbers: "logits".
        key: job key of the model.

    Raises:
        EngineError: a value is NaN or infinite.
    """
    is_finite = torch.isfinite(values) if isinstance(values, torch.Tensor) else np.isfinite(values)
    if not bool(is_finite.all()):
        wrong, number = int((~is_finite).sum()), int(np.prod(values.shape))
        raise _diverged(key, model, f"{wrong:,} of {number:,} {what} are not finite numbers (NaN or infinity)")


def refuse_diverged_weights(loaded: Any, model: str) -> None:
    """Refuses a model of torch with a weight that is NaN.

    Raises:
        EngineError: a weight is NaN.
    """
    for name, weight in loaded.named_parameters():
        _refuse_weight(name, weight.detach(), model)


def refuse_diverged_checkpoint(folder: str, model: str) -> None:
    """Refuses a local checkpoint with a weight that is NaN; for engines, of which some die of it without a cause.

    Raises:
        EngineError: a weight is NaN.
    """
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  it is no dict
                _refuse_weight(name, weights.get_tensor(name), model)


def _refuse_weight(name: str, weight: torch.Tensor, model: str) -> None:
    # A sum shows a NaN without an array of booleans as large as the weight.
    if weight.is_floating_point() and bool(weight.float().sum().isnan()):
        raise _diverged("model.id", model, f"its weight {name} has values that are not numbers (NaN)")


def _diverged(key: str, model: str, what: str) -> EngineError:
    return EngineError(key, model, f"the model has diverged: {what}", _REMEDY)

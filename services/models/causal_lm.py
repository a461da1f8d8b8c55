"""Causal language models to be evaluated: loaded as they are, in the precision that a job asks for."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import EngineError
from schemas.job import Model
from schemas.text import shorten
from services.models.checkpoints import locate
from services.models.classifier import told_if_unloadable


def load_causal_model(model: Model, device: str = "cpu") -> tuple[torch.nn.Module, Any]:
    """A model in evaluation mode, and its tokenizer.

    Args:
        model: its dtype `auto` is that of its checkpoint; what else there is of vLLM's is left alone.

    Raises:
        EngineError: it cannot be had or loaded, is not whole, is no causal model, or its tokenizer does not fit it.
    """
    path, revision = locate(model)
    source = {"revision": None if Path(path).is_dir() else revision, "trust_remote_code": model.trust_remote_code}
    with told_if_unloadable("model.id", model.id):
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
    loaded = load_weights(path, model, tokenizer, model.dtype, **source)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        cause = "its tokenizer has neither a begin nor an end of a text"
        raise EngineError("model.id", model.id, cause, "set `eos_token` of its tokenizer, and save it")
    return loaded.eval().to(device), tokenizer


def load_weights(path: str, model: Model, tokenizer: Any, dtype: Any, **source: Any) -> torch.nn.Module:
    """All of a checkpoint's weights.

    Args:
        tokenizer: that is to go with it.
        dtype: to load them in.
        source: further arguments of transformers' `from_pretrained`.

    Raises:
        EngineError: it cannot be loaded, is not whole, is no causal model, or the tokenizer does not fit it.
    """
    with told_if_unloadable("model.id", model.id):
        loaded, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
        )
    if missing := sorted(found["missing_keys"]):
        cause = f"the checkpoint lacks {len(missing)} of its weights: {shorten(', '.join(missing))}"
        raise EngineError("model.id", model.id, cause, "name a causal model's checkpoint that is whole")
    vocabulary = loaded.get_input_embeddings().num_embeddings
    if (last := max(tokenizer.get_vocab().values())) >= vocabulary:
        cause = f"its tokenizer has the token {last}, and the model {vocabulary} of them"
        raise EngineError("model.id", model.id, cause, "resize_token_embeddings(len(tokenizer)), and save both")
    if not _is_causal(loaded):
        cause = "its tokens see those behind them: it is no causal language model"
        raise EngineError("model.id", model.id, cause, "name one like GPT-2, Llama or Mistral")
    return loaded


@torch.no_grad()
def _is_causal(model: torch.nn.Module) -> bool:
    """Whether what stands last leaves all before it as it was; transformers loads RoBERTa, too, as a causal model."""
    training = model.training
    ids = torch.arange(8) % model.get_input_embeddings().num_embeddings
    one, other = (model.eval()(torch.cat([ids, ids[last : last + 1]])[None]).logits[0, :-1] for last in (0, 1))
    model.train(training)
    # In 16 bits the same row may come out otherwise beside other rows.
    rounding = 4 * torch.finfo(one.dtype).eps * one.abs().max().item()
    return torch.allclose(one, other, rtol=0, atol=1e-4 + rounding)

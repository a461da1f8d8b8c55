"""Loads causal language models for evaluation, with the weights of their checkpoint and the precision of the job."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from schemas.errors import EngineError
from schemas.job import Model
from schemas.text import shorten
from services.models.checkpoints import locate
from services.models.classifier import translate_load_errors
from services.models.diverged import refuse_diverged, refuse_diverged_weights


def load_causal_model(model: Model, device: str = "cpu") -> tuple[PreTrainedModel, Any]:
    """Loads a model in evaluation mode, and its tokenizer.

    Args:
        model: the job's section `model`. Its dtype `auto` means that of the checkpoint; keys that only vLLM knows are
            ignored.
        device: cpu or cuda.

    Raises:
        EngineError: the model is missing, cannot be loaded, is incomplete, is not a causal model, does not fit its
            tokenizer, or has diverged.
    """
    path, revision = locate(model)
    source = {"revision": None if Path(path).is_dir() else revision, "trust_remote_code": model.trust_remote_code}
    with translate_load_errors("model.id", model.id):
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
    loaded = load_weights(path, model, tokenizer, model.dtype, **source)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        cause = "its tokenizer has neither a begin-of-text nor an end-of-text token"
        raise EngineError("model.id", model.id, cause, "set `eos_token` of its tokenizer, and save it")
    return loaded.eval().to(device), tokenizer


def load_weights(path: str, model: Model, tokenizer: Any, dtype: Any, **source: Any) -> PreTrainedModel:
    """Loads all weights of a checkpoint.

    Args:
        path: path or hub id of the checkpoint.
        model: the job's section `model`, for error messages.
        tokenizer: the tokenizer to be used with the model.
        dtype: precision to load the weights in.
        source: further arguments of transformers' `from_pretrained`.

    Raises:
        EngineError: the checkpoint cannot be loaded, is incomplete, is not a causal model, does not fit the
            tokenizer, or has diverged.
    """
    with translate_load_errors("model.id", model.id):
        loaded, loading = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
        )
    # transformers initialises missing weights at random, and only warns.
    if missing := sorted(loading["missing_keys"]):
        cause = f"the checkpoint lacks {len(missing)} of its weights: {shorten(', '.join(missing))}"
        raise EngineError("model.id", model.id, cause, "name a causal model with a complete checkpoint")
    vocabulary_size = loaded.get_input_embeddings().num_embeddings
    if (largest_id := max(tokenizer.get_vocab().values())) >= vocabulary_size:
        cause = f"its tokenizer has the token id {largest_id}, and the model only {vocabulary_size} tokens"
        remedy = "call model.resize_token_embeddings(len(tokenizer)), and save the model and the tokenizer"
        raise EngineError("model.id", model.id, cause, remedy)
    refuse_diverged_weights(loaded, model.id)
    if not _is_causal(loaded, model.id):
        cause = "its tokens see the tokens after them: it is not a causal language model"
        raise EngineError("model.id", model.id, cause, "name a model like GPT-2, Llama or Mistral")
    return loaded


@torch.no_grad()
def _is_causal(model: PreTrainedModel, name: str) -> bool:
    """Returns whether the last token leaves the logits before it as they are.

    transformers loads bidirectional models, such as RoBERTa, as causal models too.

    Raises:
        EngineError: a logit is not a finite number.
    """
    was_training = model.training
    ids = torch.arange(8) % model.get_input_embeddings().num_embeddings
    # Two sequences that differ in their last token only; logits of the positions before it, shape (8, vocabulary).
    first, second = (model.eval()(torch.cat([ids, ids[last : last + 1]])[None]).logits[0, :-1] for last in (0, 1))
    model.train(was_training)
    refuse_diverged(first, name, "logits")
    # In 16 bits the same row may round differently beside other rows.
    rounding = 4 * torch.finfo(first.dtype).eps * first.abs().max().item()
    return torch.allclose(first, second, rtol=0, atol=1e-4 + rounding)

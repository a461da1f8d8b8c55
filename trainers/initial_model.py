"""Causal language models to be trained: loaded or new, in single precision, with a tokenizer that has what it takes."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import Linear
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, set_seed
from transformers.pytorch_utils import Conv1D

from schemas.errors import EngineError, JobError
from schemas.train import FromConfig, Lora, TrainModel
from services.models.causal_lm import load_weights
from services.models.classifier import translate_load_errors

Precision = Literal["fp32", "bf16", "fp16"]

# For models that came without one: a line that says whose turn it is, and the model's own end of text. Where the
# tokenizer begins a text with a token of its own, so does this.
CHAT_TEMPLATE = """\
{% for message in messages -%}
{% if message.role == 'assistant' %}Answer:
{{ message.content }}{{ eos_token }}{% else %}{{ message.role | capitalize }}:
{{ message.content }}

{% endif %}
{%- endfor %}{% if add_generation_prompt %}Answer:
{% endif %}"""

# Where a model's configuration says nothing else.
_MOST_TOKENS = 1024


def resolved(precision: str) -> Precision:
    """The precision to compute in on this machine.

    Raises:
        JobError: a CPU is to compute in fp16, or a GPU in a bf16 that it does not have.
        EngineError: several GPUs are visible.
    """
    gpu = torch.cuda.is_available()
    if torch.cuda.device_count() > 1:
        cause = f"{torch.cuda.device_count()} GPUs are visible, and a training runs on one"
        remedy = "say which one: CUDA_VISIBLE_DEVICES=0 kindling train ..."
        raise EngineError("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"), cause, remedy)
    if precision == "auto":
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "fp32"
    if precision == "fp16" and not gpu:
        remedy = "say bf16, fp32 or auto, or train on a GPU"
        raise JobError("precision", precision, "there is no GPU here, and no training in fp16 on a CPU", remedy)
    if precision == "bf16" and gpu and not torch.cuda.is_bf16_supported():
        raise JobError("precision", precision, "this GPU has no bf16", "say fp16, fp32 or auto")
    return precision


def load_tokenizer(path: str, model: TrainModel) -> Any:
    """The tokenizer of a checkpoint, with a padding token and a chat template, its own where it has them.

    Raises:
        EngineError: it cannot be loaded, or tells no end of a text.
    """
    with translate_load_errors("model.id", model.id):
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=None if Path(path).is_dir() else model.revision, trust_remote_code=model.trust_remote_code
        )
    if tokenizer.eos_token_id is None:
        remedy = "set `eos_token` of its tokenizer, and save it"
        raise EngineError("model.id", model.id, "its tokenizer has no end-of-text token", remedy)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, whichever token it is
    begin = "{{ bos_token }}" if begins_with_bos(tokenizer) else ""
    tokenizer.chat_template = tokenizer.chat_template or begin + CHAT_TEMPLATE
    return tokenizer


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer puts its beginning-of-text token before a text, as the model is used to."""
    return tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def load_model(path: str, model: TrainModel, tokenizer: Any) -> torch.nn.Module:
    """A checkpoint's weights, in fp32: updates at a small learning rate are lost in fewer bits.

    Raises:
        EngineError: it cannot be loaded, is not whole, does not fit its tokenizer, or is no causal model.
    """
    return load_weights(
        path, model, tokenizer, torch.float32, revision=None if Path(path).is_dir() else model.revision,
        trust_remote_code=model.trust_remote_code,
    )  # fmt: skip


def shape_of(path: str, model: TrainModel, tokenizer: Any) -> torch.nn.Module:
    """What `load_model` or `new_model` will give, without its weights: to check a job before it trains.

    Raises:
        EngineError: it cannot be made.
    """
    with torch.device("meta"), translate_load_errors("model.id", model.id):
        if model.from_config:
            return new_model(model.from_config, tokenizer, seed=0)
        config = AutoConfig.from_pretrained(
            path, revision=None if Path(path).is_dir() else model.revision, trust_remote_code=model.trust_remote_code
        )
        return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)


def refuse_unknown_layers(lora: Lora | None, model: torch.nn.Module, key: str) -> None:
    """Refuses adapters for layers that a model does not have.

    Raises:
        JobError: so it is.
    """
    head = model.get_output_embeddings()
    named = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Linear | Conv1D)]
    layers = {name.rpartition(".")[2] for name, layer in named if layer is not head}
    for target in lora.targets if lora and isinstance(lora.targets, list) else ():
        if target.rpartition(".")[2] not in layers:
            cause = "no layer that takes an adapter has that name"
            raise JobError(f"{key}.targets", target, cause, f"this model's are {', '.join(sorted(layers))}")


def new_model(sizes: FromConfig, tokenizer: Any, seed: int) -> torch.nn.Module:
    """GPT-2's architecture with random weights."""
    set_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_layer=sizes.layers, n_head=sizes.heads, n_embd=sizes.width,
            n_positions=sizes.context, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def example_length(asked: int | None, model: torch.nn.Module, key: str) -> int:
    """Tokens of an example: what is asked for, or what the model takes, 1024 at most.

    Raises:
        JobError: the model takes fewer than are asked for.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _MOST_TOKENS
    if asked is not None and asked > context:
        raise JobError(key, asked, f"the model takes {context} tokens", f"say {context} or less")
    return asked or min(context, _MOST_TOKENS)

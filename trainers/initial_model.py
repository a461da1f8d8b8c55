"""Model that a training starts from: loaded or new, with fp32 weights, and a tokenizer made fit for training."""

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

# Chat template for models without one: a line with the role, then the text; the assistant's turn ends with the model's
# end-of-text token. `load_tokenizer` puts the beginning-of-text token in front where the tokenizer uses one.
CHAT_TEMPLATE = """\
{% for message in messages -%}
{% if message.role == 'assistant' %}Answer:
{{ message.content }}{{ eos_token }}{% else %}{{ message.role | capitalize }}:
{{ message.content }}

{% endif %}
{%- endfor %}{% if add_generation_prompt %}Answer:
{% endif %}"""

# Tokens of an example where neither the job nor the model's configuration asks for fewer.
_DEFAULT_MAX_LENGTH = 1024


def resolve_precision(precision: Literal["auto"] | Precision) -> Precision:
    """Returns the precision of the arithmetic on this machine.

    Args:
        precision: precision that the job asks for. `auto` is bf16 on a GPU that has it, else fp16; on a CPU fp32.

    Raises:
        JobError: fp16 is asked for without a GPU, or bf16 on a GPU that does not have it.
        EngineError: several GPUs are visible.
    """
    has_gpu = torch.cuda.is_available()
    if torch.cuda.device_count() > 1:
        cause = f"{torch.cuda.device_count()} GPUs are visible, and a training runs on one"
        remedy = "choose one of them: CUDA_VISIBLE_DEVICES=0 kindling train ..."
        raise EngineError("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"), cause, remedy)
    if precision == "auto":
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if has_gpu else "fp32"
    if precision == "fp16" and not has_gpu:
        remedy = "say bf16, fp32 or auto, or train on a GPU"
        raise JobError("precision", precision, "there is no GPU here, and a CPU cannot train in fp16", remedy)
    if precision == "bf16" and has_gpu and not torch.cuda.is_bf16_supported():
        raise JobError("precision", precision, "this GPU has no bf16", "say fp16, fp32 or auto")
    return precision


def load_tokenizer(path: str, model: TrainModel) -> Any:
    """Loads the tokenizer of a checkpoint, and gives it a padding token and a chat template where it has none.

    Args:
        path: folder of the checkpoint, or its id on the Hub.
        model: section of the job with its revision.

    Raises:
        EngineError: the tokenizer cannot be loaded, or has no end-of-text token.
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
    prefix = "{{ bos_token }}" if begins_with_bos(tokenizer) else ""
    tokenizer.chat_template = tokenizer.chat_template or prefix + CHAT_TEMPLATE
    return tokenizer


def begins_with_bos(tokenizer: Any) -> bool:
    """Returns whether a tokenizer puts its beginning-of-text token in front of a text, as the model expects it."""
    return tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def load_model(path: str, model: TrainModel, tokenizer: Any) -> torch.nn.Module:
    """Loads a checkpoint with fp32 weights: in fewer bits, updates at a small learning rate are rounded away.

    Args:
        path: folder of the checkpoint, or its id on the Hub.
        model: section of the job with its revision.
        tokenizer: tokenizer of the checkpoint.

    Raises:
        EngineError: the checkpoint cannot be loaded, lacks weights, does not fit its tokenizer, or is not a causal
            language model.
    """
    return load_weights(
        path, model, tokenizer, torch.float32, revision=None if Path(path).is_dir() else model.revision,
        trust_remote_code=model.trust_remote_code,
    )  # fmt: skip


def model_without_weights(path: str, model: TrainModel, tokenizer: Any) -> Any:
    """Builds the model that `load_model` or `new_model` will return, without its weights, to check a job early.

    Its parameters lie on torch's `meta` device, which has shapes and no memory.

    Raises:
        EngineError: the checkpoint has no configuration that can be read, or is not a causal language model.
    """
    with torch.device("meta"), translate_load_errors("model.id", model.id):
        if model.from_config:
            return new_model(model.from_config, tokenizer, seed=0)
        config = AutoConfig.from_pretrained(
            path, revision=None if Path(path).is_dir() else model.revision, trust_remote_code=model.trust_remote_code
        )
        return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)


def refuse_unknown_layers(lora: Lora | None, model: Any, key: str) -> None:
    """Refuses adapters for layers that a model does not have.

    Args:
        lora: section of the job; None where the stage has no adapters.
        model: model of transformers, with or without weights.
        key: job key of that section.

    Raises:
        JobError: `targets` names a layer that the model does not have, or one that takes no adapter.
    """
    # peft adds no adapter to the vocabulary projection.
    head = model.get_output_embeddings()
    named = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Linear | Conv1D)]
    layers = {name.rpartition(".")[2] for name, layer in named if layer is not head}
    for target in lora.targets if lora and isinstance(lora.targets, list) else ():
        if target.rpartition(".")[2] not in layers:
            cause = "no layer that takes an adapter has that name"
            raise JobError(f"{key}.targets", target, cause, f"name some of this model's: {', '.join(sorted(layers))}")


def new_model(sizes: FromConfig, tokenizer: Any, seed: int) -> torch.nn.Module:
    """Builds a model of GPT-2's architecture with random weights, drawn by the seed."""
    set_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_layer=sizes.layers, n_head=sizes.heads, n_embd=sizes.width,
            n_positions=sizes.context, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def resolve_max_length(max_length: int | None, model: Any, key: str) -> int:
    """Returns the maximum number of tokens in an example.

    Args:
        max_length: number that the stage asks for; by default the model's context, and 1024 at most.
        model: model of transformers, with or without weights.
        key: job key of that number.

    Raises:
        JobError: the model takes fewer tokens than the stage asks for.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _DEFAULT_MAX_LENGTH
    if max_length is not None and max_length > context:
        raise JobError(key, max_length, f"the model takes {context} tokens", f"say {context} or less")
    return max_length or min(context, _DEFAULT_MAX_LENGTH)

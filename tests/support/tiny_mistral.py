"""A tiny random Mistral in 4 bits (GPTQ), and the same weights dequantized; both as checkpoints with a tokenizer."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(240)]
_GROUP = 32


def save_both(quantized, dequantized):
    """Writes the two checkpoints."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(WORDS) + 4, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512, initializer_range=0.06, sliding_window=None,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = MistralForCausalLM(config).float()
    # Special tokens are not shown in text; without weight they are never chosen.
    model.lm_head.weight.data[:4] = 0
    tensors = {}
    for name, weight in model.state_dict().items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            tensors[name] = weight.clone()
            continue
        packed, scales, whole = _quantize(weight)
        tensors[f"{module}.qweight"], tensors[f"{module}.scales"] = packed, scales
        groups, outputs = scales.shape
        # GPTQ's first format stores zero points less one: 7 stands for 8, in each of a word's eight nibbles.
        tensors[f"{module}.qzeros"] = torch.full((groups, outputs // 8), 0x77777777, dtype=torch.int32)
        tensors[f"{module}.g_idx"] = torch.arange(weight.shape[1], dtype=torch.int32) // _GROUP
        model.get_submodule(module).weight.data.copy_(whole)
    model.save_pretrained(dequantized)
    _tokenizer().save_pretrained(dequantized)
    quantized.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        quantized / "model.safetensors",
        {"format": "pt"},
    )
    gptq = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": _GROUP,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq",
    }
    plain = json.loads((dequantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps({**plain, "quantization_config": gptq}))
    _tokenizer().save_pretrained(quantized)


def _quantize(weight):
    """(packed [in/8, out] int32, scales [in/group, out], the weight that those stand for [out, in])."""
    grouped = weight.T.reshape(-1, _GROUP, weight.shape[0])
    # Halves hold the scales exactly, whichever type the engine computes in.
    scales = (grouped.abs().amax(dim=1) / 7).half().float()
    q = (grouped / scales[:, None]).round().clamp(-8, 7)
    whole = (q * scales[:, None]).reshape(-1, weight.shape[0]).T
    nibbles = (q + 8).to(torch.int64).reshape(-1, 8, weight.shape[0])
    packed = sum(nibbles[:, i] << (4 * i) for i in range(8))
    packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)
    return packed, scales.half(), whole


def _tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{{ bos_token }} {% for message in messages %}{{ message['content'] }} {% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        chat_template=template,
    )  # fmt: skip

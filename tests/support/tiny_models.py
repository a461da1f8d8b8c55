"""Tiny models that read bytes, and jobs that train them."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from schemas.emotions import EMOTIONS
from tests.support.processes import cli_env

CONTEXT = 64


def save_tiny(folder, **tokenizer):
    """A GPT-2 of 30,000 weights that reads bytes; without a padding token and a chat template, as GPT-2 is."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<|end|>"])}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    settings = {"eos_token": "<|end|>", **tokenizer}
    PreTrainedTokenizerFast(tokenizer_object=core, **settings).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=257, n_layer=2, n_head=2, n_embd=32, n_positions=CONTEXT, bos_token_id=256,
                        eos_token_id=256)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


FAST = {"learning_rate": 3e-3, "batch_size": 4, "accumulation": 2, "epochs": 3, "eval_steps": 5}


def sft(path, **stage):
    optimizer = {**FAST, **stage.pop("optimizer", {})}
    return {"kind": "sft", "parts": {"rows": {"input": {"path": path}}}, "dev": 0.2, "optimizer": optimizer, **stage}


def job_of(tmp_path, model, *stages, **more):
    return {
        "name": "t",
        "model": {"id": model},
        "stages": list(stages),
        "output": {"path": str(tmp_path / "o")},
        "metrics": {"port": 0},
        **more,
    }


def env():
    return cli_env(OMP_NUM_THREADS="1")


def curve(folder, tag, stage="0-sft"):
    """What TensorBoard shows of a stage: (step, value)."""
    events = EventAccumulator(str(folder / "tensorboard" / stage))
    return [(event.step, event.value) for event in events.Reload().Scalars(tag)]


JOY, SADNESS = EMOTIONS.index("joy"), EMOTIONS.index("sadness")


def happy_and_sad(path, copies=1):
    """40 texts of two emotions, in GoEmotions' format."""
    things = ["day", "walk", "song", "letter", "visit", "party", "game", "trip", "dinner", "story"]
    lines = [f"What a wonderful, happy {thing}, I am overjoyed!\t{JOY}\tid{n}" for n, thing in enumerate(things)]
    lines += [f"I cried all night about the {thing}, so sad.\t{SADNESS}\tid{n}" for n, thing in enumerate(things)]
    path.write_text("\n".join(lines * copies) + "\n")
    return str(path)


def job_on(folder, **stage):
    data = {name: happy_and_sad(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    settings = {
        "kind": "classifier",
        "data": data,
        "hidden": 16,
        "epochs": 20,
        "batch_size": 8,
        "learning_rate": 0.01,
        **stage,
    }
    return {"name": "moods", "stages": [settings], "output": {"path": str(folder / "moods")}}

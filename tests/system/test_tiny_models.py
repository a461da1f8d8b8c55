"""Tiny random models through the real engine: the 4-bit Mistral path, its greedy tokens held against transformers, and
a model without a chat template."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import augment, verify
from schemas.errors import EngineError
from services.storage.store import ShardStore
from tests.support.files import write_jsonl
from tests.support.processes import cli_env

pytestmark = pytest.mark.slow

NEW_TOKENS = 16
# Between half precision and single, a logit moves by about a thousandth of the logits' spread. A prompt on which the
# reference itself is that undecided has no greedy answer to compare with, and is passed over.
CLEAR_MARGIN = 0.02


def greedy_reference(folder, prompts):
    """(prompt, tokens) by transformers in single precision, for the prompts with a clear choice at every step."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], return_tensors="pt", return_dict=True
        )
        out = model.generate(
            **ids, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        logits = torch.cat(out.logits)
        best = logits.topk(2).values
        if ((best[:, 0] - best[:, 1]) / logits.std(dim=1)).min() > CLEAR_MARGIN:
            yield prompt, out.sequences[0, ids["input_ids"].shape[1] :].tolist(), tokenizer


def test_a_4_bit_mistral_gives_the_tokens_of_its_dequantized_self(ray_cluster, tmp_path):
    import ray

    from tests.support.tiny_mistral import WORDS, save_both

    save_both(tmp_path / "int4", tmp_path / "float")
    draw = random.Random(1)
    candidates = (" ".join(draw.choices(WORDS, k=12)) for _ in range(200))
    reference = [answer for answer, _ in zip(greedy_reference(tmp_path / "float", candidates), range(8), strict=False)]
    assert len(reference) == 8
    write_jsonl(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": p}]} for p, _, _ in reference])
    summary = augment(
        {
            "name": "int4",
            "input": {"path": str(tmp_path / "in.jsonl")},
            "recipe": "messages",
            "model": {"id": str(tmp_path / "int4"), "dtype": "float16"},
            "sampling": {"temperature": 0, "max_tokens": NEW_TOKENS, "ignore_eos": True},
            "engine": {"max_model_len": 128, "max_num_seqs": 8, "kv_cache_memory_bytes": 1 << 28},
            "cluster": {"cpus_per_replica": 1},
            "output": {"path": str(tmp_path / "run")},
            "metrics": {"port": None},
        }
    )
    assert summary.rows["accepted"] == 8 and verify(summary.run).faults == []
    run = ShardStore(summary.run).read_run()
    assert "gptq" in run.engine["quantization"]
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")
    pid = run.replicas[0]["pids"][0]
    served = "".join(path.read_text(errors="replace") for path in logs.glob(f"worker-*-{pid}.*"))
    assert "CPUWNA16LinearKernel" in served

    texts = [row["text"] for row in pq.read_table(f"{summary.run}/data").to_pylist()]
    for (_, expected, tokenizer), text in zip(reference, texts, strict=True):
        # Each token of this vocabulary is a word of its own.
        assert tokenizer.convert_tokens_to_ids(text.split()) == expected


def test_a_model_without_a_chat_template_gets_a_plain_prompt(ray_cluster, tmp_path):
    from transformers import AutoTokenizer

    from tests.support.tiny_mistral import save_both

    save_both(tmp_path / "int4", tmp_path / "float")
    (tmp_path / "float" / "chat_template.jinja").unlink()
    write_jsonl(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "w1 w2 w3"}]}])
    summary = augment(
        {
            "name": "plain",
            "input": {"path": str(tmp_path / "in.jsonl")},
            "recipe": "messages",
            # In bfloat16 these shapes meet an instruction that some CPUs lack, and vLLM's worker dies of SIGILL.
            "model": {"id": str(tmp_path / "float"), "dtype": "float32"},
            "sampling": {"max_tokens": 4, "ignore_eos": True},
            "engine": {"max_model_len": 128, "max_num_seqs": 8, "kv_cache_memory_bytes": 1 << 28},
            "cluster": {"cpus_per_replica": 1},
            "output": {"path": str(tmp_path / "run")},
            "metrics": {"port": None},
        }
    )
    assert summary.rows["accepted"] == 1 and ShardStore(summary.run).read_run().engine["chat_template"] is False
    (row,) = pq.read_table(f"{summary.run}/data").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "float")
    assert row["prompt_tokens"] == len(tokenizer("w1 w2 w3")["input_ids"]) and row["output_tokens"] == 4


def test_an_engine_that_cannot_start_says_why_in_its_own_words(ray_cluster, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "Hello."}]}])
    job = {
        "name": "starved",
        "input": {"path": str(tmp_path / "in.jsonl")},
        "recipe": "messages",
        "engine": {"max_model_len": 1024, "kv_cache_memory_bytes": 1 << 16},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(tmp_path / "run")},
        "metrics": {"port": None},
    }
    with pytest.raises(EngineError, match="cache blocks") as caught:
        augment(job)
    assert "See root cause above" not in str(caught.value)


def test_models_that_cannot_be_served_are_one_clear_error_each(tmp_path):
    """What vLLM alone can tell; what can be seen without it is in hostile_cases.py."""
    from tests.support.tiny_mistral import save_both

    save_both(tmp_path / "int4", tmp_path / "plain")

    def changed(name, config=None, **files):
        folder = tmp_path / name
        shutil.copytree(tmp_path / "plain", folder)
        whole = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**whole, **(config or {})}))
        for file, content in files.items():
            (folder / file.replace("_", ".")).write_text(content)
        return str(folder)

    def with_chat_template(name, template):
        folder = changed(name)
        Path(folder, "chat_template.jinja").write_text(template)
        return folder

    nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    custom = {"model_type": "custom", "architectures": ["M"], "auto_map": {"AutoConfig": "custom.C"}}
    expected = {
        changed("architecture", {"architectures": ["NoSuchForCausalLM"]}): "'NoSuchForCausalLM'] are not supported",
        changed("type", {"model_type": "nosuch"}): "model type `nosuch`",
        changed("custom", custom, custom_py=f"open({str(tmp_path / 'canary')!r}, 'w')"): "contains custom code",
        changed("size", {"hidden_size": "many"}): "hidden_size",
        changed("weights", model_safetensors="nonsense"): "SafetensorError",
        changed("classifier", {"architectures": ["MistralForSequenceClassification"]}): "does not write text",
        with_chat_template("loop", nested): "chat template takes more than 1,000,000 steps",
        with_chat_template("syntax", "{% for m in messages %}"): "chat template cannot be used: Unexpected end",
    }
    script, log = tmp_path / "start.py", tmp_path / "log"
    script.write_text(START)
    with log.open("w") as output:  # a file, as under Ray: why a process of the engine died is read from it
        subprocess.run([sys.executable, script, *expected], env=cli_env(), stdout=output, stderr=output, timeout=900)
    text = log.read_text(errors="replace")
    told = dict(json.loads(line) for line in text.splitlines() if line.startswith('["'))
    assert told.keys() == expected.keys(), text[-3000:]
    for folder, words in expected.items():
        assert words in told[folder] and len(told[folder]) < 1200 and len(told[folder].splitlines()) < 20
    assert not (tmp_path / "canary").exists()


# Starts the engine of each folder, and tells the error. vLLM's processes import their parent's main module.
START = """
import asyncio, json, sys
from schemas.errors import EngineError
from schemas.job import Model
from services.engines.engine import EngineSpec
from services.models.checkpoints import locate
from services.engines.vllm_engine import VllmEngine

async def told(folder):
    engine = {"max_model_len": 128, "max_num_seqs": 4, "kv_cache_memory_bytes": 1 << 26}
    spec = EngineSpec(Model(id=folder, dtype="float32"), engine, cores=(0,))
    try:
        await VllmEngine.start(spec, *locate(spec.model))
    except EngineError as error:
        return str(error)

if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(json.dumps([folder, asyncio.run(told(folder))]), flush=True)
"""

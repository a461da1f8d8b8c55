"""Tiny random models through the real engine: the 4-bit Mistral path, its greedy tokens held against transformers, and
a model without a chat template."""

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from pipelines import augment, verify
from schemas.errors import EngineError
from services.store import ShardStore

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
    from tiny_mistral import WORDS, save_both

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
    from tiny_mistral import save_both
    from transformers import AutoTokenizer

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

"""`kindling bench gpu`: one GPU beside raw vLLM and beside its own limits; `deploy/bench_gpu.sh` runs it.

Without `--model` an engine of Mistral-7B's shape is filled with random weights (`load_format: dummy`). It is as fast as
the real one, but writes nonsense and finds no end, so every row runs to its `max_tokens`. Prompts are p3's, over
made-up sentences. The paper's two jobs took 20 h (33,098 stories of about 310 tokens, a V100) and 70 h (20,000
rewrites, an RTX 4080).

With `--metrics` the cost of metrics is measured instead (`throughput.metrics_cost`).
"""

import json
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.benchmarks.report import Goal, conclude, ratio
from pipelines.benchmarks.throughput import metrics_cost
from pipelines.benchmarks.throughput.one_at_a_time import KINDLING, RAW, measure_arms
from pipelines.benchmarks.throughput.worker import Samples
from pipelines.benchmarks.throughput.workloads import Workload
from schemas.emotions import EMOTIONS
from schemas.errors import EngineError
from schemas.job import Model
from services.cluster import connect_to_ray
from services.models.embedded import embedded_checkpoint

STORY_TOKENS, STORIES = 310, 33_098
# Under 100 words; in this tokenizer a word has about 1.35 tokens.
REWRITE_TOKENS, REWRITES = 135, 20_000
_MIN_RATIO_TO_RAW = 0.98
_MAX_MINUTES = {"stories": 20, "rewrites": 5}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class Shape:
    """Sizes of a Mistral.

    The defaults are those of Mistral-7B-Instruct-v0.3's config.json. Only the vocabulary is another: it is the embedded
    tokenizer's, because no Mistral tokenizer can be shipped. The output layer is 2% of the weights.
    """

    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    vocab_size: int = 49152

    @property
    def weights(self) -> int:
        """Number of weights that a token is multiplied with: all but the input embedding."""
        head = self.hidden_size // self.num_attention_heads
        attention = 2 * self.hidden_size * head * (self.num_attention_heads + self.num_key_value_heads)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size) + (
            self.vocab_size * self.hidden_size
        )


@dataclass(frozen=True)
class Limits:
    """Limits of a GPU by its maker's data sheet.

    Attributes:
        bytes_per_second: bandwidth of its memory.
        operations_per_second: dense operations, by the format of the weights.
    """

    bytes_per_second: float
    operations_per_second: dict[str, float] = field(default_factory=dict)


# 4-bit weights are multiplied in bf16.
LIMITS = {
    "H200": Limits(4.8e12, {"gptq": 989e12, "fp8": 1979e12}),
    "H100": Limits(3.35e12, {"gptq": 989e12, "fp8": 1979e12}),
    "A100": Limits(2.0e12, {"gptq": 312e12}),
    "L40S": Limits(0.864e12, {"gptq": 362e12, "fp8": 733e12}),
    "RTX 4080": Limits(0.717e12, {"gptq": 97e12, "fp8": 195e12}),
}
_BYTES_PER_WEIGHT = {"gptq": 0.5 + 2 / 128, "fp8": 1.0}


def measure(weight_format: str, model: str | None, rows: int, rounds: int, max_num_seqs: int, metrics: bool) -> bool:
    """Measures one format and prints; returns whether all goals are met.

    Args:
        weight_format: gptq or fp8.
        model: a Mistral-7B in that format; None: its shape with random weights.
        rows: number of rows in each workload.
        rounds: number of runs of each arm on each workload.
        max_num_seqs: number of requests that the engine runs at once.
        metrics: measures the cost of metrics instead.

    Raises:
        EngineError: no GPU is here.
    """
    import torch

    if not torch.cuda.is_available():
        raise EngineError("bench gpu", None, "no GPU is here", "`kindling bench throughput` measures on CPUs")
    engine: dict[str, Any] = {"max_model_len": 2048, "max_num_seqs": max_num_seqs}
    arms = metrics_cost.ARMS if metrics else [RAW, KINDLING]
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, connect_to_ray(None):
        if model:
            loaded = Model(id=model)
        else:
            checkpoint = write_checkpoint(Path(scratch) / "mistral-7b", Shape(), weight_format)
            loaded = Model(id=str(checkpoint), quantization="fp8_per_tensor" if weight_format == "fp8" else None)
            engine["load_format"] = "dummy"
        cores = sorted(os.sched_getaffinity(0))
        samples = measure_arms(arms, workloads_of(rows), engine, rounds, cores, Path(scratch), loaded)
    gpu = torch.cuda.get_device_name()  # not earlier: it takes memory of the GPU
    settings = {"gpu": gpu, "format": weight_format, "engine": engine, "model": model or "random weights", "rows": rows}
    if metrics:
        return conclude("gpu", settings, samples, metrics_cost.goals_of(samples))
    facts, goals = summarize(samples, Shape(), weight_format, gpu, max_num_seqs)
    return conclude("gpu", {**settings, **facts}, samples, goals)


def write_checkpoint(folder: Path, shape: Shape, weight_format: str) -> Path:
    """Writes a checkpoint without weights: the shape, the format, and the embedded model's tokenizer."""
    folder.mkdir(parents=True)
    source = embedded_checkpoint()
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    config: dict[str, Any] = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        **asdict(shape),
    }
    if weight_format == "gptq":
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True,
            "checkpoint_format": "gptq",
        }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def workloads_of(rows: int, story_tokens: int = STORY_TOKENS, rewrite_tokens: int = REWRITE_TOKENS) -> list[Workload]:
    """Returns stories and rewrites of the paper's lengths: p3's prompts over made-up sentences."""
    names = sorted(set(EMOTIONS) - {"neutral"})
    contexts = [
        {"context": f"Boat number {i} drifts down a quiet river.", "emotion": names[i % len(names)]}
        for i in range(rows)
    ]
    sampling = {"temperature": 0.9, "top_p": 0.95, "ignore_eos": True}
    return [
        Workload("stories", "babylm_story", "p3", contexts, {**sampling, "max_tokens": story_tokens}),
        Workload("rewrites", "babylm_story", "p3", contexts, {**sampling, "max_tokens": rewrite_tokens}),
    ]


def summarize(
    samples: Samples, shape: Shape, weight_format: str, gpu: str, max_num_seqs: int
) -> tuple[dict[str, Any], list[Goal]]:
    """Computes the facts and goals of each workload.

    Returns:
        For each workload tokens/s and, for a GPU in LIMITS, shares of its limits; and the goals: the ratio to raw vLLM,
        and the minutes that the paper's job would take.
    """
    limits = next((limits for name, limits in LIMITS.items() if name in gpu), None)
    facts: dict[str, Any] = {}
    goals = []
    for name, arms in samples.items():
        rates = {arm: [run["output_tokens"] / run["seconds"] for run in runs] for arm, runs in arms.items()}
        rate = statistics.median(rates[KINDLING])
        run = arms[KINDLING][-1]
        tokens = run["prompt_tokens"] - run["cached_prompt_tokens"] + run["output_tokens"]
        facts[name] = {"tokens_per_second": rate}
        if limits and weight_format in limits.operations_per_second:
            # Each step of the engine reads every weight once and writes a token for each request that runs.
            steps_per_second = rate / min(max_num_seqs, run["rows"])
            bytes_per_second = steps_per_second * shape.weights * _BYTES_PER_WEIGHT[weight_format]
            operations_per_second = 2 * shape.weights * tokens / run["seconds"]
            facts[name]["share_of_bandwidth"] = bytes_per_second / limits.bytes_per_second
            facts[name]["share_of_arithmetic"] = operations_per_second / limits.operations_per_second[weight_format]
        goals.append(Goal(f"{name}: kindling / {RAW}", ratio(rates[KINDLING], rates[RAW]).median, _MIN_RATIO_TO_RAW))
        rows, length = (STORIES, STORY_TOKENS) if name == "stories" else (REWRITES, REWRITE_TOKENS)
        minutes = rows * length / rate / 60
        goals.append(Goal(f"minutes for the paper's {rows} {name}", minutes, _MAX_MINUTES[name], at_least=False))
    return facts, goals

"""What one GPU gives, beside raw vLLM and beside its own limits: `deploy/bench_gpu.sh` runs this.

    python -m pipelines.benchmarks.gpu --format gptq|fp8 [--model ID] [--watched]

Without `--model` an engine of Mistral-7B's shape is filled with random weights (`load_format: dummy`): it is as fast as
the real one, but writes nonsense and finds no end, so every row runs to its `max_tokens`. Prompts are p3's, over
made-up sentences. The paper's two jobs took 20 h (33,098 stories of about 310 tokens, a V100) and 70 h (20,000
rewrites, an RTX 4080).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.benchmarks.report import Goal, conclude, ratio
from pipelines.benchmarks.throughput.arms import Baseline, Kindling
from pipelines.benchmarks.throughput.workloads import Workload
from pipelines.benchmarks.watched import watched
from schemas.emotions import EMOTIONS
from schemas.job import Model
from services.cluster import connect_to_ray
from services.models.embedded import embedded_checkpoint

STORY_TOKENS, STORIES = 310, 33_098
# Under 100 words, in this tokenizer about 1.35 tokens a word.
REWRITE_TOKENS, REWRITES = 135, 20_000
_GOAL_MINUTES = {"stories": 20, "rewrites": 5}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class Shape:
    """Sizes of a Mistral. The defaults are Mistral-7B-Instruct-v0.3's config.json, but for the vocabulary, which is the
    tokenizer's: no Mistral tokenizer can be shipped, and the output layer is 2% of the weights."""

    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    vocab_size: int = 49152

    @property
    def weights(self) -> int:
        """Weights that a token is multiplied with: all but the input embedding."""
        head = self.hidden_size // self.num_attention_heads
        attention = 2 * self.hidden_size * head * (self.num_attention_heads + self.num_key_value_heads)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size) + (
            self.vocab_size * self.hidden_size
        )


@dataclass(frozen=True)
class Limits:
    """What a GPU can do at most, by its maker's data sheet: bytes a second, and dense operations a second by format."""

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
_WARM_UP_TOKENS = 16
_BYTES_PER_WEIGHT = {"gptq": 0.5 + 2 / 128, "fp8": 1.0}


def write_checkpoint(folder: Path, shape: Shape, weight_format: str) -> Path:
    """A checkpoint without weights: the shape, the format, and the embedded model's tokenizer."""
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


def measure(
    model: Model, engine: dict[str, Any], workloads: list[Workload], rounds: int, cores: list[int]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Raw vLLM and Kindling on each workload in alternating order; the raw samples by workload and arm.

    Only one engine fits a GPU, so each arm's engine is started anew in each round, before its clock starts.
    """
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch, connect_to_ray(None):
        folder = Path(scratch)
        for workload in workloads:
            workload.write(folder / f"{workload.name}.jsonl")
            workload.write_requests(folder / f"{workload.name}.json", str(folder / f"{workload.name}.jsonl"))
        for round_ in range(rounds):
            arms = ["whole", "kindling"] if round_ % 2 == 0 else ["kindling", "whole"]
            for arm in arms:
                if arm == "whole":
                    server: Any = Baseline("raw_vllm", engine, cores, folder / "raw_vllm.log", model)
                else:
                    server = Kindling(engine, cores, model)
                _warm_up(server, arm, folder, f"{arm}-warm-up-{round_}", workloads[0], int(engine["max_num_seqs"]))
                for workload in workloads:
                    files = folder / f"{workload.name}.jsonl", folder / f"{arm}-{workload.name}-{round_}"
                    if arm == "whole":
                        outcome = server.run("whole", files[0].with_suffix(".json"), files[1])
                    else:
                        outcome = server.run(workload, *files)
                    samples.setdefault(workload.name, {}).setdefault(arm, []).append(asdict(outcome))
                server.close()
    return samples


def _warm_up(server: Any, arm: str, folder: Path, name: str, like: Workload, rows: int) -> None:
    """Serves a few tokens to a full batch: vLLM compiles its sampling kernels with the first batches that need them.

    On an H100 that took 4 to 5 s, in each engine anew.
    """
    short = Workload(name, like.recipe, like.prompt, like.rows[:rows], {**like.sampling, "max_tokens": _WARM_UP_TOKENS})
    source = folder / f"{name}.jsonl"
    short.write(source)
    if arm == "whole":
        short.write_requests(source.with_suffix(".json"), str(source))
        server.run("whole", source.with_suffix(".json"), folder / name)
    else:
        server.run(short, source, folder / name)


def workloads_of(rows: int, story_tokens: int = STORY_TOKENS, rewrite_tokens: int = REWRITE_TOKENS) -> list[Workload]:
    """Stories and rewrites of the paper's lengths: p3's prompts over made-up sentences."""
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
    samples: dict[str, Any], shape: Shape, weight_format: str, gpu: str, max_num_seqs: int
) -> tuple[dict[str, Any], list[Goal]]:
    """Shares of the GPU's limits and the time of the paper's jobs, with their goals; limits only of a GPU in LIMITS."""
    limits = next((found for name, found in LIMITS.items() if name in gpu), None)
    facts: dict[str, Any] = {"gpu": gpu, "format": weight_format}
    goals = []
    for name, arms in samples.items():
        rates = {arm: [run["output_tokens"] / run["seconds"] for run in runs] for arm, runs in arms.items()}
        ours = statistics.median(rates["kindling"])
        run = arms["kindling"][-1]
        tokens = run["prompt_tokens"] - run["cached_prompt_tokens"] + run["output_tokens"]
        facts[name] = {"tokens_per_second": ours}
        if limits and weight_format in limits.operations_per_second:
            # Each step of the engine reads every weight once and writes a token for each request that runs.
            steps = ours / min(max_num_seqs, run["rows"])
            read = steps * shape.weights * _BYTES_PER_WEIGHT[weight_format]
            done = 2 * shape.weights * tokens / run["seconds"]
            facts[name]["share_of_bandwidth"] = read / limits.bytes_per_second
            facts[name]["share_of_arithmetic"] = done / limits.operations_per_second[weight_format]
        goals.append(Goal(f"{name}: kindling / whole", ratio(rates["kindling"], rates["whole"]).median, 0.98))
        rows, length = (STORIES, STORY_TOKENS) if name == "stories" else (REWRITES, REWRITE_TOKENS)
        minutes = rows * length / ours / 60
        goals.append(Goal(f"minutes for the paper's {rows} {name}", minutes, _GOAL_MINUTES[name], at_least=False))
    return facts, goals


def main() -> None:
    """Runs one format and ends with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description="Kindling beside raw vLLM on one GPU")
    parser.add_argument("--format", choices=sorted(_BYTES_PER_WEIGHT), required=True)
    parser.add_argument("--model", help="a Mistral-7B in that format; by default its shape with random weights")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-num-seqs", type=int, default=512)
    parser.add_argument("--watched", action="store_true", help="what it costs to be watched, in place of raw vLLM")
    given = parser.parse_args()
    if given.watched and given.rounds < 2:
        parser.error("--rounds: one round does not tell how much rounds differ; give 2 or more")
    import torch

    if not torch.cuda.is_available():
        sys.exit("error: no GPU is here; `kindling bench throughput` measures on CPUs")
    engine: dict[str, Any] = {"max_model_len": 2048, "max_num_seqs": given.max_num_seqs}
    with tempfile.TemporaryDirectory(prefix="kindling-shape-") as scratch:
        if given.model:
            model = Model(id=given.model)
        else:
            model = Model(id=str(write_checkpoint(Path(scratch) / "mistral-7b", Shape(), given.format)),
                          quantization="fp8_per_tensor" if given.format == "fp8" else None)  # fmt: skip
            engine["load_format"] = "dummy"
        if given.watched:
            sys.exit(0 if watched(given.rows, given.rounds, model, engine, REWRITE_TOKENS) else 1)
        samples = measure(model, engine, workloads_of(given.rows), given.rounds, sorted(os.sched_getaffinity(0)))
    gpu = torch.cuda.get_device_name()
    facts, goals = summarize(samples, Shape(), given.format, gpu, given.max_num_seqs)
    settings = {**facts, "engine": engine, "model": given.model or "random weights", "rows": given.rows}
    sys.exit(0 if conclude("gpu", settings, samples, goals) else 1)


if __name__ == "__main__":
    main()

"""Ray Data's batch inference: `python -m pipelines.benchmarks.throughput.ray_data_llm SPEC.json` (see `worker`).

Orders: `{"arm": "ray", "workload": "requests.json", "output": "folder"}`, and if wanted `batch_size`,
`max_concurrent_batches` and `stages`: true for tokenizing and detokenizing in stages of their own, as is Ray's
default, false for leaving both to the engine.

Each execution starts its own actors and engine, and that is not counted. The clock runs from the moment vLLM took the
first row (its own `arrival_time`) until the last Parquet file was written (its time of change); ending the actors is
not counted either. By then the rows wait ready-made before the engine: reading, rendering and tokenizing them has cost
no time. Blocks are as large as batches, so that no batch waits for another's rows, and Ray believes in more CPUs than
there are, so that no stage waits for a core that it hardly uses.
"""

import logging
import math
import os
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pyarrow.parquet as pq
import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from pipelines.benchmarks.throughput.worker import Channel, Requests, Result, engine_settings, result, spec_of
from services.engines.cpu_settings import cpu_environment

# More than all stages ask for together.
_LOGICAL_CPUS = 16
_OBJECT_STORE_BYTES = 256 << 20
_LONGEST_END_SECONDS = 30.0


def main() -> None:
    """Serves orders until standard input ends."""
    channel = Channel()
    began = monotonic()
    settings = engine_settings(spec_of(sys.argv[1]))
    _start_ray()
    try:
        import vllm

        versions = {"ray": ray.__version__, "vllm": vllm.__version__}
        channel.ready(start_seconds=monotonic() - began, versions=versions)
        for order in channel.orders():
            began, others = monotonic(), _engine_processes()
            outcome = run(settings, Requests.read(order["workload"]), order)
            executed = monotonic() - began
            _wait_for_end(others)
            channel.answer(outcome, execution_seconds=executed)
    finally:
        ray.shutdown()


def run(settings: dict[str, Any], requests: Requests, order: dict[str, Any]) -> Result:
    """Executes one Ray Data pipeline from the requests to Parquet files in `order["output"]`."""
    output = Path(order["output"])
    output.mkdir(parents=True, exist_ok=True)
    batch_size = order.get("batch_size", 32)
    # Where a stage detokenizes, the engine need not; but it has to read what it writes to see a stop string.
    common = {**requests.sampling, "detokenize": not order.get("stages", True) or bool(requests.sampling.get("stop"))}
    rows = [
        {"row": number, "messages": messages, "sampling_params": {**common, "seed": seed}}
        for number, (messages, seed) in enumerate(zip(requests.messages, requests.seeds, strict=True))
    ]
    dataset = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / batch_size))
    processor = build_processor(_config(settings, order, batch_size), postprocess=_kept)
    processor(dataset).write_parquet(str(output))
    return _result(output, requests.sampling["max_tokens"])


def _start_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        "local", num_cpus=_LOGICAL_CPUS, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False, logging_level=logging.ERROR, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False


def _config(settings: dict[str, Any], order: dict[str, Any], batch_size: int) -> vLLMEngineProcessorConfig:
    stages = order.get("stages", True)
    environment = cpu_environment()
    return vLLMEngineProcessorConfig(
        model_source=settings["model"],
        engine_kwargs={name: value for name, value in settings.items() if name != "model"},
        runtime_env={"env_vars": environment} if environment else None,
        # Without a GPU, Ray has to be told what an engine takes, and to keep vLLM's metrics off its own endpoint.
        placement_group_config={"bundles": [{"CPU": 1}]},
        log_engine_metrics=False,
        concurrency=1,
        batch_size=batch_size,
        max_concurrent_batches=order.get("max_concurrent_batches", 8),
        chat_template_stage=True,
        tokenize_stage=stages,
        detokenize_stage=stages,
    )


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """What is written of a row."""
    return {
        "row": row["row"],
        "text": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "output_tokens": row["num_generated_tokens"],
        "arrived": row["metrics"]["arrival_time"],
    }


def _engine_processes() -> set[int]:
    return {process.pid for process in psutil.process_iter(["name"]) if process.info["name"].startswith("VLLM")}


def _wait_for_end(others: set[int]) -> None:
    """Waits for the execution's engine to be gone: Ray kills its actor, and vLLM's worker outlives that by seconds,
    in which it keeps the cores busy."""
    end = monotonic() + _LONGEST_END_SECONDS
    while _engine_processes() - others and monotonic() < end:
        sleep(0.2)


def _result(output: Path, max_tokens: int) -> Result:
    files = list(output.glob("*.parquet"))
    rows = pq.read_table(files).sort_by("row").to_pydict()
    written = max(file.stat().st_mtime for file in files)
    # Ray passes neither the finish reason nor the cached tokens on.
    reasons = ["length" if length == max_tokens else "stop" for length in rows["output_tokens"]]
    return result(written - min(rows["arrived"]), sum(rows["prompt_tokens"]), None, rows["output_tokens"], reasons)


if __name__ == "__main__":
    main()

"""Ray Data's batch inference: `python -m pipelines.benchmarks.throughput.ray_data_llm SPEC.json` (see `worker`).

Orders: `{"requests": "requests.json", "output": "folder", "batch_size": 64, "max_concurrent_batches": 8}`.

Each execution starts its own actors and engine, which is not counted. The clock runs from the moment when vLLM took the
first row (its own `arrival_time`) until the last Parquet file was written (its time of change). The end of the actors
is not counted either. When the clock starts, rows are read, rendered and ready before the engine.

The settings are those that serve Ray Data best on few cores:

- no stages for tokenizing and detokenizing: they would take the engine's cores;
- blocks as large as batches, so that no batch waits for another's rows;
- more logical CPUs than the machine has, so that no stage waits for a core that it hardly uses.
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

from pipelines.benchmarks.throughput.worker import Channel, Requests, Result, engine_settings, read_spec, sum_rows
from services.engines.cpu_settings import cpu_environment

# More than all stages ask for together.
_LOGICAL_CPUS = 16
_OBJECT_STORE_BYTES = 256 << 20
_MAX_END_SECONDS = 30.0


def main() -> None:
    """Serves orders until standard input ends."""
    channel = Channel()
    settings = engine_settings(read_spec(sys.argv[1]))
    _start_ray()
    try:
        channel.ready()
        for order in channel.orders():
            other_engines = _engine_processes()
            result = run(settings, Requests.read(order["requests"]), order)
            _wait_for_end(other_engines)
            channel.answer(result)
    finally:
        ray.shutdown()


def run(settings: dict[str, Any], requests: Requests, order: dict[str, Any]) -> Result:
    """Executes one Ray Data pipeline from the requests to Parquet files in `order["output"]`."""
    output = Path(order["output"])
    output.mkdir(parents=True, exist_ok=True)
    rows = [
        {"row": number, "messages": messages, "sampling_params": {**requests.sampling, "seed": seed}}
        for number, (messages, seed) in enumerate(zip(requests.messages, requests.seeds, strict=True))
    ]
    dataset = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / order["batch_size"]))
    processor = build_processor(_config(settings, order), postprocess=_written_columns)
    processor(dataset).write_parquet(str(output))
    return _read(output, requests.sampling["max_tokens"])


def _start_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        "local", num_cpus=_LOGICAL_CPUS, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False, logging_level=logging.ERROR, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False


def _config(settings: dict[str, Any], order: dict[str, Any]) -> vLLMEngineProcessorConfig:
    environment = cpu_environment()
    return vLLMEngineProcessorConfig(
        model_source=settings["model"],
        engine_kwargs={name: value for name, value in settings.items() if name != "model"},
        runtime_env={"env_vars": environment} if environment else None,
        # Without a GPU, Ray does not know by itself what an engine takes. vLLM's metrics stay off Ray's endpoint.
        placement_group_config={"bundles": [{"CPU": 1}]},
        log_engine_metrics=False,
        concurrency=1,
        batch_size=order["batch_size"],
        max_concurrent_batches=order["max_concurrent_batches"],
        chat_template_stage=True,
        tokenize_stage=False,
        detokenize_stage=False,
    )


def _written_columns(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "row": row["row"],
        "text": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "output_tokens": row["num_generated_tokens"],
        "arrived": row["metrics"]["arrival_time"],
    }


def _engine_processes() -> set[int]:
    return {process.pid for process in psutil.process_iter(["name"]) if process.info["name"].startswith("VLLM")}


def _wait_for_end(other_engines: set[int]) -> None:
    """Waits until the execution's engine is gone.

    Ray kills its actor, and vLLM's worker outlives it by seconds in which it keeps the cores busy.
    """
    end = monotonic() + _MAX_END_SECONDS
    while _engine_processes() - other_engines and monotonic() < end:
        sleep(0.2)


def _read(output: Path, max_tokens: int) -> Result:
    files = list(output.glob("*.parquet"))
    rows = pq.read_table(files).sort_by("row").to_pydict()
    written = max(file.stat().st_mtime for file in files)
    # Ray passes neither the finish reason nor the cached tokens on.
    reasons = ["length" if length == max_tokens else "stop" for length in rows["output_tokens"]]
    return sum_rows(written - min(rows["arrived"]), sum(rows["prompt_tokens"]), None, rows["output_tokens"], reasons)


if __name__ == "__main__":
    main()

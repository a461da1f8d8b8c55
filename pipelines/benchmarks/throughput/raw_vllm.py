"""vLLM alone, in one process: `python -m pipelines.benchmarks.throughput.raw_vllm SPEC.json` (see `worker`).

Orders: `{"arm": "whole" | "whole+nucleus" | "queue", "requests": "requests.json", "output": "folder"}`.

    whole          one `LLM.chat` over all prompts, then one Parquet file: as fast as vLLM goes with these seeds, and
                   nothing is safe before the last row is done
    whole+nucleus  as `whole`, but `top_p` is sampled by Kindling's own sampler
    queue          `LLM.enqueue_chat` and `LLM.wait_for_completion`, then one Parquet file: the calls that `LLM.chat`
                   makes, which a script can make for one chunk of its file after another. Without seeds, in an engine
                   of its own

The clock runs from the first call until the file is closed. The prefix cache is empty at the start.
"""

import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.benchmarks.throughput.worker import (
    Channel,
    Requests,
    Result,
    engine_settings,
    read_spec,
    sum_rows,
)

_CHUNK_ROWS = 64
QUEUE = "queue"


def main() -> None:
    """Serves orders until standard input ends."""
    channel = Channel()
    settings = engine_settings(read_spec(sys.argv[1]))
    import vllm

    from services.engines.vllm_engine import WORKER_EXTENSION

    llm = vllm.LLM(**settings, worker_extension_cls=WORKER_EXTENSION)
    try:
        channel.ready()
        for order in channel.orders():
            requests = Requests.read(order["requests"])
            llm.collective_rpc("select_nucleus", args=(order["arm"].endswith("+nucleus"),))
            channel.answer(run(llm, requests, order["arm"] == QUEUE, Path(order["output"])))
    finally:
        llm.llm_engine.engine_core.shutdown()


def run(llm: Any, requests: Requests, is_queue: bool, output: Path) -> Result:
    """Serves the requests.

    Args:
        llm: a `vllm.LLM`.
        is_queue: hands them over chunk after chunk, without seeds; else in one call, with seeds.
        output: the folder to make; it gets one Parquet file.
    """
    from vllm import SamplingParams

    output.mkdir(parents=True, exist_ok=True)
    seeds = [None] * len(requests.seeds) if is_queue else requests.seeds
    params = [SamplingParams(**requests.sampling, seed=seed) for seed in seeds]
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not empty its prefix cache")
    began = monotonic()
    if is_queue:
        for start in range(0, len(params), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            llm.enqueue_chat(requests.messages[chunk], params[chunk], use_tqdm=False)
        outputs: list[Any] = llm.wait_for_completion(use_tqdm=False)
    else:
        outputs = llm.chat(requests.messages, params, use_tqdm=False)
    _write(outputs, output / "rows.parquet")
    seconds = monotonic() - began
    return sum_rows(
        seconds,
        sum(len(output.prompt_token_ids) for output in outputs),
        sum(output.num_cached_tokens or 0 for output in outputs),
        [len(output.outputs[0].token_ids) for output in outputs],
        [output.outputs[0].finish_reason for output in outputs],
    )


def _write(outputs: list[Any], path: Path) -> None:
    columns = {
        "prompt": [output.prompt for output in outputs],
        "text": [output.outputs[0].text for output in outputs],
        "finish_reason": [output.outputs[0].finish_reason for output in outputs],
        "prompt_tokens": [len(output.prompt_token_ids) for output in outputs],
        "output_tokens": [len(output.outputs[0].token_ids) for output in outputs],
    }
    pq.write_table(pa.table(columns), path)


if __name__ == "__main__":
    main()

"""vLLM alone, in one process: `python -m pipelines.benchmarks.throughput.raw_vllm SPEC.json` (see `worker`).

Orders: `{"arm": "whole" | "chunks" | "whole+nucleus", "requests": "requests.json", "output": "folder"}`.

    whole          one `LLM.chat` over all prompts, then one Parquet file: as fast as vLLM goes, and nothing is safe
                   before the last row is done
    chunks         the script that people write instead: `LLM.chat` over 64 prompts after 64, a Parquet file after
                   each; the engine empties at the end of every chunk
    whole+nucleus  as `whole`, but `top_p` is sampled by Kindling's own sampler

The clock runs from the first call of `LLM.chat` until the last file is closed. The prefix cache is empty at the start.
"""

import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.benchmarks.throughput.worker import Channel, Requests, Result, engine_settings, read_spec, sum_rows

CHUNK_ROWS = 64


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
            arm, _, sampler = order["arm"].partition("+")
            llm.collective_rpc("select_nucleus", args=(sampler == "nucleus",))
            size = {"whole": len(requests.messages), "chunks": CHUNK_ROWS}[arm]
            channel.answer(run(llm, requests, size, Path(order["output"])))
    finally:
        llm.llm_engine.engine_core.shutdown()


def run(llm: Any, requests: Requests, size: int, output: Path) -> Result:
    """Serves the requests, `size` in each call.

    Args:
        llm: a `vllm.LLM`.
        output: the folder to make; it gets one Parquet file for each call.
    """
    from vllm import SamplingParams

    output.mkdir(parents=True, exist_ok=True)
    params = [SamplingParams(**requests.sampling, seed=seed) for seed in requests.seeds]
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not empty its prefix cache")
    outputs: list[Any] = []
    began = monotonic()
    for start in range(0, len(params), size):
        chunk = slice(start, start + size)
        chunk_outputs = llm.chat(requests.messages[chunk], params[chunk], use_tqdm=False)
        _write(chunk_outputs, output / f"{start:06}.parquet")
        outputs += chunk_outputs
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

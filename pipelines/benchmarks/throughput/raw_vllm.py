"""vLLM alone, in one process: `python -m pipelines.benchmarks.throughput.raw_vllm SPEC.json` (see `worker`).

Orders: `{"arm": "whole" | "chunks" | "whole+nucleus", "workload": "requests.json", "output": "folder"}`.

    whole          one `LLM.chat` over all prompts, then one Parquet file: as fast as vLLM goes, and nothing is safe
                   before the last row is done
    chunks         the script that people write instead: `LLM.chat` over 64 prompts after 64, a Parquet file after
                   each; the engine empties at the end of every chunk
    whole+nucleus  as `whole`, and the engine finds the tokens that `top_p` leaves as ours does

The clock runs from the first call of `LLM.chat` until the last file is closed. The prefix cache is empty at the start.
"""

import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.benchmarks.throughput.worker import Channel, Requests, Result, engine_settings, result, spec_of

CHUNK = 64


def main() -> None:
    """Serves orders until standard input ends."""
    channel = Channel()
    began = monotonic()
    settings = engine_settings(spec_of(sys.argv[1]))
    import torch
    import vllm

    from services.engines.vllm_engine import WORKER_EXTENSION

    llm = vllm.LLM(**settings, worker_extension_cls=WORKER_EXTENSION)
    try:
        versions = {"vllm": vllm.__version__, "torch": torch.__version__}
        channel.ready(start_seconds=monotonic() - began, versions=versions)
        for order in channel.orders():
            requests = Requests.read(order["workload"])
            arm, _, ours = order["arm"].partition("+")
            llm.collective_rpc("select_nucleus", args=(bool(ours),))
            size = {"whole": len(requests.messages), "chunks": CHUNK}[arm]
            channel.answer(run(llm, requests, size, Path(order["output"])))
    finally:
        llm.llm_engine.engine_core.shutdown()


def run(llm: Any, requests: Requests, size: int, output: Path) -> Result:
    """Serves the requests `size` at a time.

    Args:
        llm: a `vllm.LLM`.
        output: a folder, made here; it gets one Parquet file for each call.
    """
    from vllm import SamplingParams

    output.mkdir(parents=True, exist_ok=True)
    params = [SamplingParams(**requests.sampling, seed=seed) for seed in requests.seeds]
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not empty its prefix cache")
    done: list[Any] = []
    began = monotonic()
    for start in range(0, len(params), size):
        part = slice(start, start + size)
        outputs = llm.chat(requests.messages[part], params[part], use_tqdm=False)
        _write(outputs, output / f"{start:06}.parquet")
        done += outputs
    seconds = monotonic() - began
    return result(
        seconds,
        sum(len(output.prompt_token_ids) for output in done),
        sum(output.num_cached_tokens or 0 for output in done),
        [len(output.outputs[0].token_ids) for output in done],
        [output.outputs[0].finish_reason for output in done],
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

"""Arms that are not up at the same time: each arm's engine is started anew in each round, before its clock starts.

That is how arms are measured of which one engine fills a GPU, or whose engines would compute on different cores.
"""

from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipelines.benchmarks.report import alternate
from pipelines.benchmarks.throughput.arms import EMBEDDED, Baseline, Kindling
from pipelines.benchmarks.throughput.worker import Result, Samples
from pipelines.benchmarks.throughput.workloads import Workload, WorkloadFiles
from schemas.job import Model

RAW, KINDLING = "whole", "kindling"
SCRAPED, WITHOUT_METRICS = "kindling with metrics", "kindling without metrics"

_WARM_UP_TOKENS = 16


def measure_arms(
    arms: list[str],
    workloads: list[Workload],
    engine: dict[str, Any],
    rounds: int,
    cores: list[int],
    folder: Path,
    model: Model = EMBEDDED,
) -> Samples:
    """Runs each arm on each workload `rounds` times, in alternating order.

    Must be used inside `services.cluster.connect_to_ray`.

    Args:
        arms: of RAW, KINDLING, SCRAPED and WITHOUT_METRICS.
        folder: an existing folder for all files.
    """
    samples: Samples = {workload.name: {arm: [] for arm in arms} for workload in workloads}
    files = [workload.write(folder) for workload in workloads]
    warm_up = _warm_up(workloads[0], int(engine["max_num_seqs"])).write(folder)
    for round_ in range(rounds):
        for arm in alternate(arms, round_):
            with closing(_start(arm, engine, cores, folder, model)) as server:
                for served in [warm_up, *files]:
                    result = _serve(server, served, folder / f"{arm}-{served.workload.name}-{round_}")
                    if served is not warm_up:
                        samples[served.workload.name][arm].append(asdict(result))
    return samples


def _start(arm: str, engine: dict[str, Any], cores: list[int], folder: Path, model: Model) -> Baseline | Kindling:
    if arm == RAW:
        return Baseline("raw_vllm", engine, cores, folder, model)
    if arm == WITHOUT_METRICS:
        engine = {**engine, "disable_log_stats": True}  # vLLM then keeps no series of its own
    return Kindling(engine, cores, model, scraped=arm == SCRAPED)


def _serve(server: Baseline | Kindling, files: WorkloadFiles, folder: Path) -> Result:
    return server.run(RAW, files, folder) if isinstance(server, Baseline) else server.run(files, folder)


def _warm_up(workload: Workload, rows: int) -> Workload:
    """Returns a full batch of short outputs, which no sample counts.

    vLLM compiles its sampling kernels with the first batches that need them: on an H100 4 to 5 s in each new engine.
    """
    sampling = {**workload.sampling, "max_tokens": _WARM_UP_TOKENS}
    return replace(workload, name="warm-up", rows=workload.rows[:rows], sampling=sampling)

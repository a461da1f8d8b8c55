"""The verb bench: a command for each file or package in `pipelines/benchmarks`, of the same name.

Each command imports its bench when it runs, so that `--help` answers at once.
"""

import functools
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from schemas.errors import EXIT_FAULTS

app = typer.Typer(help="Measure what Kindling claims, beside other tools.", no_args_is_help=True)

Rounds = Annotated[int, typer.Option(min=1, help="number of runs of each arm, in alternating order")]
Metrics = Annotated[
    bool, typer.Option("--metrics", help="measure the cost of metrics instead: Kindling with and without them")
]


def _command(measure: Callable[..., bool]) -> Callable[..., bool]:
    """Registers a command that ends with EXIT_FAULTS where a goal is missed."""

    @app.command()
    @functools.wraps(measure)
    def run(**options: Any) -> None:
        if not measure(**options):
            raise typer.Exit(EXIT_FAULTS)

    return measure


@_command
def throughput(
    data: Annotated[str, typer.Option(help="folder with the three corpora; see docs/performance.md")],
    rows: Annotated[int, typer.Option(help="number of rows in each workload")] = 192,
    rounds: Rounds = 3,
    workloads: Annotated[str, typer.Option(metavar="NAME,...", help="workloads to measure; all by default")] = "",
    arms: Annotated[str, typer.Option(metavar="NAME,...", help="arms to measure; all by default")] = "",
    minutes: Annotated[float, typer.Option(min=0, help="time after which no further run is begun")] = 60.0,
    keep: Annotated[
        str | None, typer.Option(metavar="FILE", help="keep each run in this file; a stopped bench goes on from it")
    ] = None,
    metrics: Metrics = False,
) -> bool:
    """Compare with raw vLLM, the script people write, and ray.data.llm: same prompts, same engine, same cores."""
    from pipelines.benchmarks.throughput.bench import measure

    return measure(data, rows, rounds, workloads, arms, minutes, keep, metrics)


@_command
def scale(
    rows: Annotated[int, typer.Option(help="number of rows in the largest simulated run")] = 10_000_000,
    shards: Annotated[int, typer.Option(help="number of shards in the run that is resumed")] = 100_000,
    rows_per_replica: Annotated[int, typer.Option(help="rows for each replica, where efficiency is measured")] = 3600,
) -> bool:
    """Measure efficiency as replicas are added, the driver's cost and memory, and the resume of many shards."""
    from pipelines.benchmarks.scale.bench import measure

    return measure(rows, shards, rows_per_replica)


class Store(StrEnum):
    """Places of the runs of `bench chaos`."""

    local = "local"
    s3 = "s3"


@_command
def chaos(
    kills: Annotated[int, typer.Option(help="number of SIGKILLs in runs on the fake engine")] = 200,
    real_kills: Annotated[int, typer.Option(help="number of SIGKILLs in runs on the embedded model; 0: no run")] = 6,
    seed: Annotated[int, typer.Option(help="seed from which victims, times and failpoints are drawn")] = 0,
    rows: Annotated[int, typer.Option(help="number of input rows in each run on the fake engine")] = 400,
    store: Annotated[
        Store, typer.Option(help="place of the runs; s3: moto's server, disturbed, fake engine")
    ] = Store.local,
    programs: Annotated[
        bool, typer.Option("--programs", help="rows on the fake engine take two generations, a judge and several tries")
    ] = False,
) -> bool:
    """Kill and stop processes at any moment, and count what is lost by it: nothing."""
    from pipelines.benchmarks.chaos.bench import measure

    return measure(kills, real_kills, seed, rows, store.value, programs)


@_command
def determinism(
    rows: Annotated[int, typer.Option(help="number of input rows, of the demo's 56")] = 56,
    samples: Annotated[int, typer.Option(help="number of outputs for each row")] = 2,
    max_tokens: Annotated[int, typer.Option(help="largest number of tokens in an output")] = 64,
) -> bool:
    """Run a job again, on more replicas, in another order, after a crash: the share of rows with the same text."""
    from pipelines.benchmarks.determinism import measure

    return measure(rows, samples, max_tokens)


@_command
def classifier(
    data: Annotated[
        str | None,
        typer.Option(help="folder with GoEmotions, contexts and stories; without it only the agreement with readers"),
    ] = None,
    classifier: Annotated[
        list[str], typer.Option(help="`classifier.id` of another classifier to compare with the readers; several times")
    ] = [],  # noqa: B006
    stories: Annotated[int, typer.Option(help="number of stories that are scored")] = 2000,
    sentences: Annotated[int, typer.Option(help="number of sentences in each run of the throughput")] = 4000,
    rounds: Rounds = 3,
) -> bool:
    """Measure the shipped emotion classifiers beside two readings of 200 texts; their trainer, and sentences/s."""
    from pipelines.benchmarks.classifier.bench import measure

    return measure(data, classifier, stories, sentences, rounds)


@_command
def train(
    data: Annotated[
        str | None, typer.Option(help="JSONL file with instruction, input and output; by default the shipped rows")
    ] = None,
    rows: Annotated[int, typer.Option(help="largest number of rows to train on")] = 64,
    rounds: Rounds = 3,
) -> bool:
    """Train beside TRL's SFTTrainer: real tokens/s on the same rows, at the same loss."""
    from pipelines.benchmarks.train.bench import measure

    return measure(data, rows, rounds)


@_command
def blimp(
    data: Annotated[str, typer.Option(help="folder with BLiMP's files; see docs/performance.md")],
    rounds: Rounds = 3,
) -> bool:
    """Score three paradigms beside lm-eval's hf backend at its best batch size: pairs/s, and equal decisions."""
    from pipelines.benchmarks.blimp import measure

    return measure(data, rounds)


class WeightFormat(StrEnum):
    """Formats of a Mistral-7B's weights that `bench gpu` measures."""

    gptq = "gptq"
    fp8 = "fp8"


@_command
def quality(
    rows: Annotated[int, typer.Option(help="number of outputs in each arm")] = 500,
    recordings: Annotated[
        list[str] | None, typer.Option(help="file of recorded responses (columns text, emotion); may be repeated")
    ] = None,
) -> bool:
    """Compare rows of the loop with rows of one try: emotions expressed, tokens, speed, the judge, early stops."""
    from pipelines.benchmarks.quality.bench import measure

    return measure(rows, recordings)


@_command
def gpu(
    weight_format: Annotated[WeightFormat, typer.Option("--format", help="format of the weights")],
    model: Annotated[
        str | None, typer.Option(help="a Mistral-7B in that format; by default its shape with random weights")
    ] = None,
    rows: Annotated[int, typer.Option(help="number of rows in each workload")] = 4096,
    rounds: Rounds = 3,
    max_num_seqs: Annotated[int, typer.Option(help="number of requests that the engine runs at once")] = 512,
    metrics: Metrics = False,
) -> bool:
    """Compare a Mistral-7B in 4 bits or FP8 on one GPU with raw vLLM, and with the GPU's own limits."""
    from pipelines.benchmarks.gpu import measure

    return measure(weight_format, model, rows, rounds, max_num_seqs, metrics)

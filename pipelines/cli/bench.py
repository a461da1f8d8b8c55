"""The verb bench: each measurement is a command of it."""

from typing import Annotated

import typer

from schemas.errors import EXIT_FAULTS

app = typer.Typer(help="The measurements that Kindling claims, beside its peers.", no_args_is_help=True)


@app.command("throughput")
def bench_throughput(
    data: Annotated[str, typer.Option(help="folder with the three corpora; see docs/performance.md")],
    rows: Annotated[int, typer.Option(help="of each workload")] = 192,
    rounds: Annotated[int, typer.Option(help="runs of each arm on each workload")] = 3,
) -> None:
    """Beside raw vLLM, the script people write, and ray.data.llm: same prompts, same engine, same cores."""
    from pipelines.benchmarks.throughput.throughput import throughput

    _exit_unless(throughput(data, rows, rounds))


@app.command("scale")
def bench_scale(
    rows: Annotated[int, typer.Option(help="of the largest simulated run")] = 10_000_000,
    shards: Annotated[int, typer.Option(help="of the run that is resumed")] = 100_000,
    rows_per_replica: Annotated[int, typer.Option(help="of the runs whose efficiency is measured")] = 3600,
) -> None:
    """Replicas added without loss, the driver's cost and memory, and the resume of a run with many shards."""
    from pipelines.benchmarks.scale.scale import scale

    _exit_unless(scale(rows, shards, rows_per_replica))


@app.command("chaos")
def bench_chaos(
    kills: Annotated[int, typer.Option(help="SIGKILLs of runs on the fake engine")] = 200,
    real_kills: Annotated[int, typer.Option(help="SIGKILLs of runs on the embedded model; 0 leaves these out")] = 6,
    seed: Annotated[int, typer.Option(help="of victims, times and failpoints")] = 0,
    rows: Annotated[int, typer.Option(help="input rows of each run on the fake engine")] = 400,
) -> None:
    """Processes killed and stopped at any moment, and what is lost by it: nothing."""
    from pipelines.benchmarks.chaos.chaos import chaos

    _exit_unless(chaos(kills, real_kills, seed, rows))


@app.command("determinism")
def bench_determinism(
    rows: Annotated[int, typer.Option(help="input rows, of the demo's 56")] = 56,
    samples: Annotated[int, typer.Option(help="outputs for each row")] = 2,
    max_tokens: Annotated[int, typer.Option(help="of each output")] = 64,
) -> None:
    """The same job again, on more replicas, in another order, after a crash: the share of rows with the same text."""
    from pipelines.benchmarks.determinism import determinism

    _exit_unless(determinism(rows, samples, max_tokens))


@app.command("classifier")
def bench_classifier(
    data: Annotated[str, typer.Option(help="folder with GoEmotions, contexts and stories; see docs/label.md")],
    stories: Annotated[int, typer.Option(help="that are scored")] = 2000,
    sentences: Annotated[int, typer.Option(help="of each run of the throughput")] = 4000,
    rounds: Annotated[int, typer.Option(help="of the throughput")] = 3,
) -> None:
    """The shipped emotion classifier, what its trainer can do, and sentences/s beside the transformers pipeline."""
    from pipelines.benchmarks.classifier import classifier

    _exit_unless(classifier(data, stories, sentences, rounds))


@app.command("train")
def bench_train(
    data: Annotated[str | None, typer.Option(help="JSONL: instruction, input, output; else the rows we ship")] = None,
    rows: Annotated[int, typer.Option(help="to train on, at most")] = 64,
    rounds: Annotated[int, typer.Option(help="of each of the two trainers")] = 3,
) -> None:
    """Training beside TRL's SFTTrainer: real tokens/s on the same rows, at the same loss."""
    from pipelines.benchmarks.train import train

    _exit_unless(train(data, rows, rounds))


@app.command("blimp")
def bench_blimp(
    data: Annotated[str, typer.Option(help="folder with BLiMP's files; see docs/blimp.md")],
    rounds: Annotated[int, typer.Option(help="runs of each arm in bfloat16")] = 3,
) -> None:
    """Three paradigms beside lm-eval's hf backend at its best batch size: pairs/s, and how pairs are decided."""
    from pipelines.benchmarks.blimp import blimp

    _exit_unless(blimp(data, rounds))


@app.command("watched")
def bench_watched(
    rows: Annotated[int, typer.Option(help="of each run")] = 64,
    rounds: Annotated[int, typer.Option(min=2, help="runs of each of the two engines, on each of two cores")] = 4,
) -> None:
    """What it costs to be watched: processor time with and without metrics, as a share of the run's time."""
    from pipelines.benchmarks.watched import watched

    _exit_unless(watched(rows, rounds))


def _exit_unless(goals_met: bool) -> None:
    if not goals_met:
        raise typer.Exit(EXIT_FAULTS)

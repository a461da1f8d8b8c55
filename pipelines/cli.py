"""The command line. Each verb imports what it needs when it runs, so that `--help` answers at once."""

import json
import logging
import shlex
import signal
import sys
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from schemas.errors import EXIT_FAULTS, EXIT_STOPPED, KindlingError

_TYPER_INTERRUPTED = 130

app = typer.Typer(
    name="kindling",
    help="Distributed batch generation: a corpus in, committed Parquet shards out, through vLLM on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

pool_app = typer.Typer(help="Engines that stay up between jobs: start, list, stop.", no_args_is_help=True)
app.add_typer(pool_app, name="pool")
bench_app = typer.Typer(help="The measurements that Kindling claims, beside its peers.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

Job = Annotated[str, typer.Argument(metavar="JOB", help="the job file (YAML)")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="the run folder: the job's output.path")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set sampling.temperature=0.7")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]
Address = Annotated[str | None, typer.Option(help="of the Ray cluster; by default RAY_ADDRESS")]


class FileFormat(StrEnum):
    """Formats that `export` writes."""

    parquet = "parquet"
    jsonl = "jsonl"


@app.command()
def demo(path: Annotated[str, typer.Option("--to", help="where the run goes")] = "runs/demo") -> None:
    """The whole main job on the embedded model and a small built-in corpus."""
    from pipelines.demonstration import demo

    demo(path)


@app.command()
def augment(
    job: Job,
    overrides: Set = None,
    extend: Annotated[bool, typer.Option("--extend", help="rows were added at the end of the input")] = False,
    as_json: Json = False,
) -> None:
    """Run or resume an augmentation job."""
    from pipelines.augmentation import augment
    from pipelines.jobfile import load_job
    from pipelines.progress import counts_text

    summary = augment(load_job(job, overrides), extend=extend)
    if as_json:
        return _print_json(summary.as_json())
    print(f"{summary.run}: {counts_text(summary.rows)}, {summary.shards} shards, {summary.output_tokens} output tokens")
    if summary.generated:
        rate = f"{summary.tokens_per_second:.0f} output tokens/s"
        print(f"this start: {summary.generated} rows in {summary.serving_seconds:.0f} s of serving, {rate}")


@app.command()
def verify(
    run: Run,
    repair: Annotated[bool, typer.Option("--repair", help="set damaged shards aside, to be made again")] = False,
    as_json: Json = False,
) -> None:
    """Prove that every input row has exactly one terminal state and every shard is whole; exit 1 otherwise."""
    from pipelines.progress import counts_text
    from pipelines.verification import verify

    verdict = verify(run, repair)
    if as_json:
        _print_json(verdict.as_json())
    else:
        for fault in verdict.faults:
            print(f"{fault.path}: {fault.cause}")
        state = f"{len(verdict.faults)} faults" if verdict.faults else "whole"
        print(f"{run}: {state}; {verdict.shards} shards, {counts_text(verdict.rows)}")
        if verdict.moved:
            print(f"set aside {len(verdict.moved)} files in {run}/{verdict.set_aside}; run the job again to make them")
    if verdict.faults:
        raise typer.Exit(EXIT_FAULTS)


@app.command()
def status(run: Run, as_json: Json = False) -> None:
    """Progress, goodput, ETA, rejects by reason; from disk alone, also while the job runs."""
    from pipelines.progress import counts_text
    from pipelines.run_status import status

    found = status(run)
    if as_json:
        return _print_json(found.as_json())
    finished = sum(found.rows.values())
    print(f"{found.name}: {finished} of {found.rows_total} rows ({finished / found.rows_total:.1%}), "
          f"{'complete' if found.complete else 'not complete'}")  # fmt: skip
    print(f"  rows     {counts_text(found.rows)}; {found.logged} of them in open shards")
    print(f"  shards   {found.shards} of {found.shards_total}")
    if found.goodput_tokens_per_second is not None:
        print(f"  goodput  {found.goodput_tokens_per_second} output tokens/s over {found.active_seconds:.0f} s of work")
    if found.eta_seconds and not found.complete:
        print(f"  left     about {found.eta_seconds / 60:.1f} minutes of work at that rate")
    for reason, rows in found.rejects.items():
        print(f"  rejected {rows} x {reason}")


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="an empty folder, or one that is not there yet")],
    file_format: Annotated[FileFormat, typer.Option("--format", help="format of the data files")] = FileFormat.parquet,
    as_json: Json = False,
) -> None:
    """The accepted rows as a dataset with a card, ready for load_dataset and the Hub."""
    from pipelines.dataset_export import export

    exported = export(run, to, file_format.value)
    if as_json:
        return _print_json(exported.as_json())
    unfinished = "" if exported.complete else " (the run is not complete)"
    print(f"{exported.rows} rows in {len(exported.files)} files{unfinished}")
    print(f'load it: datasets.load_dataset("{exported.to}", split="train")')


@bench_app.command("throughput")
def bench_throughput(
    data: Annotated[str, typer.Option(help="folder with the three corpora; see docs/performance.md")],
    rows: Annotated[int, typer.Option(help="of each workload")] = 192,
    rounds: Annotated[int, typer.Option(help="runs of each arm on each workload")] = 3,
) -> None:
    """Beside raw vLLM, the script people write, and ray.data.llm: same prompts, same engine, same cores."""
    from pipelines.benchmarks.throughput import throughput

    _exit_unless(throughput(data, rows, rounds))


@bench_app.command("scale")
def bench_scale(
    rows: Annotated[int, typer.Option(help="of the largest simulated run")] = 10_000_000,
    shards: Annotated[int, typer.Option(help="of the run that is resumed")] = 100_000,
    rows_per_replica: Annotated[int, typer.Option(help="of the runs whose efficiency is measured")] = 3600,
) -> None:
    """Replicas added without loss, the driver's cost and memory, and the resume of a run with many shards."""
    from pipelines.benchmarks.scale import scale

    _exit_unless(scale(rows, shards, rows_per_replica))


@bench_app.command("chaos")
def bench_chaos(
    kills: Annotated[int, typer.Option(help="SIGKILLs of runs on the fake engine")] = 200,
    real_kills: Annotated[int, typer.Option(help="SIGKILLs of runs on the embedded model; 0 leaves these out")] = 6,
    seed: Annotated[int, typer.Option(help="of victims, times and failpoints")] = 0,
    rows: Annotated[int, typer.Option(help="input rows of each run on the fake engine")] = 400,
) -> None:
    """Processes killed and stopped at any moment, and what is lost by it: nothing."""
    from pipelines.benchmarks.chaos import chaos

    _exit_unless(chaos(kills, real_kills, seed, rows))


@bench_app.command("determinism")
def bench_determinism(
    rows: Annotated[int, typer.Option(help="input rows, of the demo's 56")] = 56,
    samples: Annotated[int, typer.Option(help="outputs for each row")] = 2,
    max_tokens: Annotated[int, typer.Option(help="of each output")] = 64,
) -> None:
    """The same job again, on more replicas, in another order, after a crash: the share of rows with the same text."""
    from pipelines.benchmarks.determinism import determinism

    _exit_unless(determinism(rows, samples, max_tokens))


@pool_app.command("start")
def pool_start(
    job: Job,
    overrides: Set = None,
    name: Annotated[str | None, typer.Option(help="name of the pool; by default the job's")] = None,
    idle_minutes: Annotated[float, typer.Option(help="the pool ends after so long without a job")] = 60.0,
) -> None:
    """Start the engines of a job's model, engine and cluster sections, and leave them running for the jobs to come."""
    from pipelines.jobfile import load_job
    from pipelines.pools import start_pool

    start_pool(load_job(job, overrides), name, idle_minutes)


@pool_app.command("list")
def pool_list(address: Address = None, as_json: Json = False) -> None:
    """The pools of the cluster, and what they are at."""
    from dataclasses import asdict

    from pipelines.pools import list_pools

    pools = list_pools(address)
    if as_json:
        return _print_json({"pools": [asdict(pool) for pool in pools]})
    if not pools:
        print("no pool runs")
    for pool in pools:
        starting = f", {pool.starting} of them starting" if pool.starting else ""
        used = f"{pool.jobs} jobs, {pool.in_flight} requests in flight" if pool.jobs else ""
        state = used or f"idle for {pool.idle_seconds / 60:.1f} min"
        print(f"{pool.name}: {pool.model}, {pool.replicas} replicas{starting}, {state}")


@pool_app.command("stop")
def pool_stop(name: Annotated[str, typer.Argument(metavar="NAME")], address: Address = None) -> None:
    """End a pool; jobs that use it go on with engines of their own."""
    from pipelines.pools import stop_pool

    print(f"{name}: {stop_pool(name, address)} replicas stopped")


def main() -> None:
    """Entry point of `kindling`: runs a verb, and shows errors without a traceback."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[_StderrHandler()]
    )
    logging.getLogger("kindling").setLevel(logging.INFO)
    # Where no job has set a grace for it, SIGTERM ends the command as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KindlingError as error:
        print(f"{'stopped' if error.exit_code == EXIT_STOPPED else 'error'}: {error}", file=sys.stderr)
        _exit(error.exit_code)
    except SystemExit as ended:
        # Typer's way of telling of Ctrl-C, and Ray's of SIGTERM.
        if ended.code not in (_TYPER_INTERRUPTED, signal.SIGTERM):
            raise
        print("stopped", file=sys.stderr)
        _exit(EXIT_STOPPED)


def _exit(code: int) -> NoReturn:
    if code == EXIT_STOPPED:
        from pipelines.jobfile import without_secret

        print(f"resume with: {shlex.join(['kindling', *map(without_secret, sys.argv[1:])])}", file=sys.stderr)
    sys.exit(code)


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is now: a progress bar replaces it, so that log lines appear above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        print(self.format(record), file=sys.stderr)


def _exit_unless(goals_met: bool) -> None:
    if not goals_met:
        raise typer.Exit(EXIT_FAULTS)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))

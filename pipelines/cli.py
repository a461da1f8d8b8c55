"""The command line. Each verb imports what it needs when it runs, so that `--help` answers at once."""

import json
import shlex
import signal
import sys
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from pipelines import cli_bench, cli_corpora, cli_evaluation, cli_preview, cli_status, cli_training
from pipelines.cli_logs import logged
from schemas.errors import EXIT_FAULTS, EXIT_STOPPED, JobError, KindlingError
from services import logs

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
app.add_typer(cli_bench.app, name="bench")

Job = Annotated[str, typer.Argument(metavar="JOB", help="the job file (YAML)")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="the run folder: the job's output.path")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set sampling.temperature=0.7")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]
Address = Annotated[str | None, typer.Option(help="of the Ray cluster; by default RAY_ADDRESS")]


class FileFormat(StrEnum):
    """What `export` writes."""

    parquet = "parquet"
    jsonl = "jsonl"
    prompts = "prompts"


@app.command()
@logged
def demo(path: Annotated[str, typer.Option("--to", help="where the run goes")] = "runs/demo") -> None:
    """The whole main job on the embedded model and a small built-in corpus."""
    from pipelines.demonstration import demo

    demo(path)


app.command()(logged(cli_preview.preview))


@app.command()
@logged
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
@logged
def label(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """Raw text to sentences to contexts with emotions."""
    from pipelines.jobfile import load_job
    from pipelines.labelling.label import label
    from schemas.label import LabelJob

    summary = label(load_job(job, overrides, LabelJob))
    if as_json:
        return _print_json(summary.as_json())
    counts = summary.counts
    print(f"{summary.run}: {counts['kept']} of {counts['sentences']} sentences kept, from {counts['lines']} lines; "
          f"{counts['neutral']} neutral, {counts['unsure']} below the threshold")  # fmt: skip
    for source, each in summary.sources.items():
        print(f"  {source}: {each['kept']} of {each['sentences']}")
    for rule, number in summary.dropped.items():
        print(f"  dropped {number} x {rule}")


app.command()(logged(cli_training.train))


@app.command()
def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="a trained model: the job's output.path")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="on the Hub: owner/name")],
    public: Annotated[bool, typer.Option("--public", help="a repository that all can see; by default private")] = False,
    as_json: Json = False,
) -> None:
    """Send a trained model and its card to the Hub; the token is that of `hf auth login`, or HF_TOKEN."""
    from pipelines.publishing import push

    pushed = push(folder, repo, public)
    if as_json:
        return _print_json(pushed.as_json())
    print(f"{len(pushed.files)} files are at {pushed.url} ({'private' if pushed.private else 'public'})")


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


app.command()(cli_status.status)


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="a folder that is empty or not there yet; for prompts a file")],
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="of the data files; or prompts, for a run of evaluation_prompts")
    ] = FileFormat.parquet,
    per_emotion: Annotated[
        int | None, typer.Option(min=1, help="prompts to keep of each emotion; by default 30, as the paper asks")
    ] = None,
    as_json: Json = False,
) -> None:
    """The accepted rows as a dataset with a card, ready for load_dataset and the Hub; or a set of prompts."""
    if file_format is FileFormat.prompts:
        return _export_prompts(run, to, per_emotion or 30, as_json)
    if per_emotion is not None:
        raise JobError("--per-emotion", per_emotion, "only a set of prompts has so many", "add --format prompts")
    from pipelines.dataset_export import export

    exported = export(run, to, file_format.value)
    if as_json:
        return _print_json(exported.as_json())
    unfinished = "" if exported.complete else " (the run is not complete)"
    print(f"{exported.rows} rows in {len(exported.files)} files{unfinished}")
    print(f'load it: datasets.load_dataset("{exported.to}", split="train")')


@app.command()
@logged
def compose(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """A training corpus from runs and text files, to a budget of words, with its composition table."""
    from pipelines.card import composition_notes, composition_table
    from pipelines.composition import compose
    from pipelines.jobfile import load_job
    from schemas.composition import ComposeJob

    record = compose(load_job(job, overrides, ComposeJob))
    if as_json:
        return _print_json(record.model_dump(mode="json"))
    print(f"{record.job['output']['path']}: {record.words:,} words of {record.words_budget:,}")
    rows = [("part", "documents", "words", "share", "words a document"), *composition_table(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for name, *cells in rows:
        print(f"  {name:{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths[1:], strict=True)))
    for note in composition_notes(record):
        print(f"  {note}")


def _export_prompts(run: str, to: str, per_emotion: int, as_json: bool) -> None:
    from pipelines.prompt_export import export_prompts

    exported = export_prompts(run, to, per_emotion)
    if as_json:
        return _print_json(exported.as_json())
    columns = ("prompts", "short", "duplicates", "spare", "unparsed", "refused")
    print(f"{'emotion':16}{''.join(f'{name:>12}' for name in columns)}")
    for emotion, counts in exported.as_json()["emotions"].items():
        print(f"{emotion:16}{''.join(f'{counts[name]:12}' for name in columns)}")
    prompts = sum(len(each.prompts) for each in exported.emotions.values())
    print(f"{prompts} prompts in {to}{'' if exported.complete else ' (the run is not complete)'}")


app.command()(logged(cli_evaluation.evaluate))
app.command()(cli_corpora.stats)
app.command()(cli_corpora.compare)


@pool_app.command("start")
@logged
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
    logs.set_up()
    # Where no job has set a grace for it, SIGTERM ends the command as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KindlingError as error:
        what = "stopped" if error.exit_code == EXIT_STOPPED else "error"
        logs.tell(f"{what}: {error}", event=what, **error.facts())
        _exit(error.exit_code)
    except SystemExit as ended:
        # Typer's way of telling of Ctrl-C, and Ray's of SIGTERM.
        if ended.code not in (_TYPER_INTERRUPTED, signal.SIGTERM):
            raise
        logs.tell("stopped", event="stopped")
        _exit(EXIT_STOPPED)


def _exit(code: int) -> NoReturn:
    if code == EXIT_STOPPED:
        from pipelines.jobfile import without_secret

        command = shlex.join(["kindling", *map(without_secret, sys.argv[1:])])
        logs.tell(f"resume with: {command}", event="resume", command=command)
    sys.exit(code)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))

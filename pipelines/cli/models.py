"""The verbs about models: train, evaluate, push."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Job, Json, Set, logged, print_json
from schemas.errors import EXIT_FAULTS, JobError, StoppedError
from services.observability import logs

if TYPE_CHECKING:
    from pipelines.training.on_ray import Trained
    from schemas.train import TrainJob

Jobs = Annotated[list[str], typer.Argument(metavar="JOB", help="job files (YAML); several train at once, on Ray")]
SetEach = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key, in each of the jobs")
]
TrainAddress = Annotated[
    str | None,
    typer.Option(help="of the Ray cluster; by default RAY_ADDRESS. One job with it trains there too, and not here"),
]


@logged
def train(jobs: Jobs, overrides: SetEach = None, address: TrainAddress = None, as_json: Json = False) -> None:
    """Train what a job asks for in this process, or what several ask for, each as a Ray task."""
    loaded = [_loaded(path, overrides, tell_file=len(jobs) > 1) for path in jobs]
    if len(loaded) > 1 or address is not None:
        from pipelines.training.on_ray import train_all

        with contextlib.redirect_stdout(sys.stderr):  # Ray tells there of a process that died
            trained = train_all(loaded, address)
        return _show(trained, as_json)
    from pipelines.training.train import train

    report = train(loaded[0])
    if as_json:
        print_json(report.as_json())
    else:
        print("\n".join(report.lines()))


def _loaded(path: str, overrides: list[str] | None, tell_file: bool) -> "TrainJob":
    from pipelines.jobfile import load_job
    from schemas.train import TrainJob

    try:
        return load_job(path, overrides, TrainJob)
    except JobError as error:
        if not tell_file or error.value == path:
            raise
        raise JobError(f"{path}: {error.key}", error.value, error.cause, error.remedy) from None


def _show(trained: list["Trained"], as_json: bool) -> None:
    """Prints what came of each, and ends with the exit code that this means.

    Raises:
        StoppedError: some were stopped.
        Exit: some failed.
    """
    if as_json:
        print_json({"trained": [each.as_json() for each in trained]})
    else:
        _print_table(trained)
    for each in trained:
        if each.error is not None:
            logs.report(
                f"{each.name} {each.state}: {each.error}", event=each.state, job=each.name, **each.error.log_fields()
            )
    stopped = sum(each.state == "stopped" for each in trained)
    if stopped:
        cause = f"{stopped} of {len(trained)} trainings are not at their end"
        raise StoppedError("", None, cause, "the same command goes on where they were")
    if any(each.state == "failed" for each in trained):
        raise typer.Exit(EXIT_FAULTS)


def _print_table(trained: list["Trained"]) -> None:
    """A line for each stage."""
    rows = [("job", "state", "minutes", "result")]
    for each in trained:
        told = each.lines or (each.path,)
        rows.append((each.name, each.state, f"{each.seconds / 60:.1f}", told[0]))
        rows += [("", "", "", line) for line in told[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row[:3], widths, strict=True)]
        print("  ".join([*cells, row[3]]).rstrip())


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="a trained model: the job's output.path")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="on the Hub: owner/name")],
    public: Annotated[bool, typer.Option("--public", help="a repository that all can see; by default private")] = False,
    as_json: Json = False,
) -> None:
    """Send a trained model and its card to the Hub; the token is that of `hf auth login`, or HF_TOKEN."""
    from pipelines.publishing.hub import push

    pushed = push(folder, repo, public)
    if as_json:
        return print_json(pushed.as_json())
    print(f"{len(pushed.files)} files are at {pushed.url} ({'private' if pushed.private else 'public'})")


@logged
def evaluate(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """Measure models, or responses that are there already; docs/evaluate.md."""
    from rich.console import Console

    from pipelines.evaluation.evaluate import evaluate
    from pipelines.evaluation.tables import rendered
    from pipelines.jobfile import load_job
    from schemas.evaluate import EvaluateJob

    report = evaluate(load_job(job, overrides, EvaluateJob))
    if as_json:
        print_json(report.as_json())
    else:
        Console().print(rendered(report.tables()))
        print(f"the tables and what they are of: {report.run}")
    for error in report.failures.values():
        logs.report(f"error: {error}", event="error")
    if report.failures:
        raise typer.Exit(EXIT_FAULTS)

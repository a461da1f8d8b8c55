"""The verbs about models: train, evaluate."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Job, Json, Set, logged, print_json
from schemas.errors import EXIT_FAULTS, JobError, StoppedError
from services.observability import logs

if TYPE_CHECKING:
    from pipelines.training.on_ray import TrainingResult
    from schemas.train import TrainJob

Jobs = Annotated[list[str], typer.Argument(metavar="JOB", help="job files (YAML); several jobs train at once, on Ray")]
SetEach = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key in every job")]
TrainAddress = Annotated[
    str | None,
    typer.Option(
        help="address of the Ray cluster; by default RAY_ADDRESS. With it, a single job trains on the cluster too"
    ),
]


@logged
def train(jobs: Jobs, overrides: SetEach = None, address: TrainAddress = None, as_json: Json = False) -> None:
    """Train one job in this process, or several jobs at the same time, each as a Ray task."""
    loaded = [_loaded(path, overrides, name_file=len(jobs) > 1) for path in jobs]
    if len(loaded) > 1 or address is not None:
        from pipelines.training.on_ray import train_all

        # Ray prints to standard output when a worker dies; standard output is for results alone.
        with contextlib.redirect_stdout(sys.stderr):
            trained = train_all(loaded, address)
        return _show(trained, as_json)
    from pipelines.training.train import train

    report = train(loaded[0])
    if as_json:
        print_json(report.as_json())
    else:
        print("\n".join(report.lines()))


def _loaded(path: str, overrides: list[str] | None, name_file: bool) -> "TrainJob":
    """Loads a training job; with `name_file`, its errors name the file, since several are given."""
    from pipelines.jobfile import load_job
    from schemas.train import TrainJob

    try:
        return load_job(path, overrides, TrainJob)
    except JobError as error:
        if not name_file or error.value == path:
            raise
        raise JobError(f"{path}: {error.key}", error.value, error.cause, error.remedy) from None


def _show(trained: list["TrainingResult"], as_json: bool) -> None:
    """Prints the result of each training, and ends with the exit code for all of them.

    Raises:
        StoppedError: some trainings were stopped.
        typer.Exit: some trainings failed.
    """
    if as_json:
        print_json({"trained": [training.as_json() for training in trained]})
    else:
        _print_table(trained)
    for training in trained:
        if (error := training.error) is not None:
            message = f"{training.name} {training.state}: {error}"
            logs.report(message, event=training.state, job=training.name, **error.log_fields())
    stopped = sum(training.state == "stopped" for training in trained)
    if stopped:
        cause = f"{stopped} of {len(trained)} trainings were stopped before their end"
        raise StoppedError("", None, cause, "run the same command again to resume them")
    if any(training.state == "failed" for training in trained):
        raise typer.Exit(EXIT_FAULTS)


def _print_table(trained: list["TrainingResult"]) -> None:
    """Prints a line for each training, and further lines for further stages."""
    rows = [("job", "state", "minutes", "result")]
    for training in trained:
        results = training.lines or (training.path,)
        rows.append((training.name, training.state, f"{training.seconds / 60:.1f}", results[0]))
        rows += [("", "", "", line) for line in results[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row[:3], widths, strict=True)]
        print("  ".join([*cells, row[3]]).rstrip())


@logged
def evaluate(
    job: Job,
    overrides: Set = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="run this evaluation of the job alone; may be given several times"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure models, or responses that are written already; see docs/evaluate.md."""
    from pipelines.jobfile import load_job
    from schemas.evaluate import EvaluateJob

    loaded = load_job(job, overrides, EvaluateJob)  # before the imports that take seconds
    from rich.console import Console

    from pipelines.evaluation.evaluate import evaluate
    from pipelines.pages.tables import rendered

    report = evaluate(loaded, only)
    if as_json:
        print_json(report.as_json())
    else:
        Console().print(rendered(report.tables()))
        print(f"tables, responses and records: {report.run}")
        if report.left_out:
            print(f"left out: {', '.join(report.left_out)}; the same command without --only runs what is left")
    for error in report.failures.values():
        logs.report(f"error: {error}", event="error")
    if report.failures:
        raise typer.Exit(EXIT_FAULTS)

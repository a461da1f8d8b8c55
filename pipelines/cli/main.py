"""The command line. Each verb imports what it needs when it runs, so that `--help` answers at once."""

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from pipelines.cli import bench, checks, corpora, models, publishing, runs, studies
from schemas.errors import EXIT_STOPPED, KindlingError, RunError, StoppedError, StoreError
from schemas.secrets import command_line
from services.observability import logs, start_phases, streams

# Exit code with which Typer ends after Ctrl-C.
_TYPER_INTERRUPTED = 130
# Verbs of which a stop keeps the finished work.
_RESUMED = ("demo", "label", "augment", "train", "evaluate", "reproduce", "push")

app = typer.Typer(
    name="kindling",
    help="Distributed batch generation: a corpus in, committed Parquet shards out, through vLLM on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        print(f"kindling {importlib.metadata.version('kindling')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """Options of `kindling` itself, before any verb."""


# `--help` lists the verbs in this order, the order in which a person needs them.
_VERBS = (
    checks.doctor,
    runs.demo,
    runs.label,
    checks.init,
    checks.schema,
    checks.check,
    runs.preview,
    runs.augment,
    runs.status,
    runs.runs,
    runs.verify,
    runs.replay,
    corpora.stats,
    corpora.compare,
    corpora.quality,
    publishing.review,
    corpora.dedup,
    publishing.export,
    corpora.compose,
    models.train,
    models.evaluate,
    studies.reproduce,
    studies.report,
    publishing.push,
)
for _verb in _VERBS:
    app.command()(_verb)
app.add_typer(runs.pool_app, name="pool")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point of `kindling`: runs a verb, and shows Kindling's own errors without a traceback."""
    start_phases.start_clock()
    # Else pydantic searches all installed packages for plugins, before the first key of a job is read.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    streams.set_up()
    logs.set_up()
    # These signals end the command in the same way as Ctrl-C; a job that can finish rows first sets its own handler.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a result that cannot be written is one error
    except KindlingError as error:
        _end(error)
    except StoreError as error:  # while something was read; an error of writing names its place
        _end(RunError("", None, f"an object store failed: {error.strerror}", error.remedy))
    except SystemExit as ended:
        # Typer turns Ctrl-C into the first code; Ray turns SIGTERM into the second.
        if ended.code not in (_TYPER_INTERRUPTED, signal.SIGTERM):
            raise
        logs.report("stopped", event="stopped")
        _exit(EXIT_STOPPED, command_line())


def _end(error: KindlingError) -> NoReturn:
    """Shows an error, and ends the process with its exit code."""
    outcome = "stopped" if error.exit_code == EXIT_STOPPED else "error"
    logs.report(f"{outcome}: {error}", event=outcome, **error.log_fields())
    command = command_line()
    _exit(error.exit_code, error.resuming(command) if isinstance(error, StoppedError) else command)


def _exit(code: int, command: str) -> NoReturn:
    """Ends the process; after a stop it first prints the command that resumes the job, or does its work again."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a late one would replace the exit code by which a service resumes
    if code == EXIT_STOPPED:
        title = "resume with" if sys.argv[1:2] and sys.argv[1] in _RESUMED else "begin again with"
        logs.report(f"{title}: {command}", event="resume", command=command)
    sys.exit(code)

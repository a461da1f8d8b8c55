"""The verbs about runs: demo, label, preview, augment, status, runs, verify, replay, pool.

A verb reads its job file before it imports Ray and Arrow, which takes seconds: a mistake there is reported at once.
"""

import shutil
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Address, Job, Json, Run, Set, hide_pandas, logged, print_json
from schemas.errors import EXIT_FAULTS

if TYPE_CHECKING:
    from pipelines.augmentation.summary import Summary

pool_app = typer.Typer(help="Engines that stay up between jobs: start, list, stop.", no_args_is_help=True)
AnyRun = Annotated[str, typer.Argument(metavar="RUN", help="folder of a run or of a training: the job's output.path")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="refresh until the job has ended, or until Ctrl-C")]
WatchJson = Annotated[
    bool, typer.Option("--json", help="print one JSON object on standard output; with --watch one a line")
]


class Retry(StrEnum):
    """Rows that `augment --retry` generates again."""

    rejected = "rejected"
    errors = "errors"


# Width for a file or a pipe, where no line needs to be cut.
_WIDTH_OF_FILE = 10_000
# Reasons of rejected and of failed rows that `augment` prints.
_MAX_REASONS = 5


@logged
def preview(
    job: Job,
    overrides: Set = None,
    count: Annotated[int, typer.Option("--count", "-n", help="number of rows to run")] = 16,
    seed: Annotated[int, typer.Option(help="seed of the draw: the same seed draws the same rows")] = 0,
    show: Annotated[int, typer.Option(min=0, help="number of rows to show in the terminal")] = 4,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="a new file for the page: .md or .html")
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="accept rows added at the end of the input")] = False,
    as_json: Json = False,
) -> None:
    """Run a few rows of a job, and forecast all of it: tokens, time, cost, rejects. The run folder is not touched."""
    from pipelines.jobfile import load_job

    loaded = load_job(job, overrides)
    from rich.console import Console

    from pipelines.corpora.comparison_page import page_of
    from pipelines.previewing.page import preview_page, save_preview
    from pipelines.previewing.preview import preview

    if to is not None:
        page_of(to)  # refuses a wrong ending before the work is done
    forecast = preview(loaded, count, seed, extend)
    if to is not None:
        save_preview(forecast, to)
    if as_json:
        print_json(forecast.as_json())
    else:
        Console().print(preview_page(forecast, show))


@logged
def demo(path: Annotated[str, typer.Option("--to", help="folder for the run")] = "runs/demo") -> None:
    """Run a complete augmentation job on the embedded model and a small built-in corpus."""
    from pipelines.demonstration import demo

    demo(path)


@logged
def augment(
    job: Job,
    overrides: Set = None,
    extend: Annotated[bool, typer.Option("--extend", help="accept rows added at the end of the input")] = False,
    retry: Annotated[
        Retry | None, typer.Option(help="generate rows of a complete run again; the job may have changed")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run or resume an augmentation job; exits with 1 where no row was accepted."""
    from pipelines.jobfile import load_job

    loaded = load_job(job, overrides)
    from pipelines.augmentation.augment import augment

    summary = augment(loaded, extend=extend, retry=retry.value if retry else None)
    if as_json:
        print_json(summary.as_json())
    else:
        _print_summary(summary)
    if not summary.rows["accepted"]:
        raise typer.Exit(EXIT_FAULTS)


def _print_summary(summary: "Summary") -> None:
    from pipelines.run_status.page import titled_list
    from schemas.outcomes import cut_off_share
    from schemas.rows import counts_text
    from schemas.text import plural, shorten

    print(f"{summary.run}: {counts_text(summary.rows)}, {plural(summary.shards, 'shard')}, "
          f"{plural(summary.output_tokens, 'output token')}")  # fmt: skip
    if summary.cut_off:
        print(f"cut off at max_tokens: {cut_off_share(summary.cut_off, summary.rows['accepted'])}")
    for title, reasons in (("rejected", summary.rejects), ("failed", summary.errors), ("tried again", summary.tries)):
        shown = [f"{rows:,} x {shorten(reason)}" for reason, rows in list(reasons.items())[:_MAX_REASONS]]
        more = len(reasons) - len(shown)
        shown += [f"and {plural(more, 'reason')} more: --json has them"] if more else []
        for line in titled_list(title, shown):
            print(line)
    if summary.generated:
        rate = f"{summary.tokens_per_second:.0f} accepted output tokens/s"
        print(f"this start: {plural(summary.generated, 'row')} in {summary.serving_seconds:.0f} s of serving, {rate}")
    if not summary.rows["accepted"]:
        print("no row was accepted")


@logged
def label(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """Split raw text into sentences, and keep those with a clear emotion (contexts)."""
    from pipelines.jobfile import load_job
    from schemas.label import LabelJob

    loaded = load_job(job, overrides, LabelJob)
    from pipelines.labelling.label import label

    summary = label(loaded)
    if as_json:
        return print_json(summary.as_json())
    counts = summary.counts
    print(f"{summary.run}: {counts['kept']} of {counts['sentences']} sentences kept, from {counts['lines']} lines; "
          f"{counts['neutral']} neutral, {counts['unsure']} below the threshold")  # fmt: skip
    for source, source_counts in summary.sources.items():
        print(f"  {source}: {source_counts['kept']} of {source_counts['sentences']}")
    for rule, number in summary.dropped.items():
        print(f"  dropped {number} x {rule}")


def verify(
    run: Run,
    repair: Annotated[bool, typer.Option("--repair", help="move damaged shards aside, to be made again")] = False,
    as_json: Json = False,
) -> None:
    """Check that every output has exactly one final state and no shard is damaged; exits with 1 otherwise."""
    hide_pandas()
    from pipelines.verification import verify
    from schemas.rows import counts_text
    from schemas.text import plural

    verdict = verify(run, repair)
    if as_json:
        print_json(verdict.as_json())
    else:
        for fault in verdict.damage:
            print(f"{fault.path}: {fault.cause}")
        if verdict.not_read:
            print(f"not read: {verdict.not_read}")
        if verdict.unfinished:
            print(f"unfinished: {verdict.unfinished}")
        if verdict.leftovers:
            left = f"{plural(len(verdict.leftovers), 'file')} of a start that was stopped, {verdict.leftovers[0]} first"
            print(f"left over: {left}: no reader sees them, and the next start of the job removes them")
        states = [plural(len(verdict.damage), "fault")] if verdict.damage else []
        states += ["not complete"] if verdict.unfinished else []
        print(f"{run}: {', '.join(states) or 'whole'}; {plural(verdict.shards, 'shard')}, {counts_text(verdict.rows)}")
        if verdict.moved:
            moved = plural(len(verdict.moved), "file")
            print(f"set aside {moved} in {run}/{verdict.set_aside}; run the job again to make them")
    if verdict.faults:
        raise typer.Exit(EXIT_FAULTS)


@logged
def replay(
    run: Run,
    count: Annotated[int, typer.Option("--count", "-n", help="number of rows to generate again")] = 100,
    seed: Annotated[int, typer.Option(help="seed of the draw: the same seed draws the same rows")] = 0,
    as_json: Json = False,
) -> None:
    """Generate rows of a run again, and tell the share whose text is the same. The run folder is not touched."""
    from pipelines.replaying.replay import replay
    from schemas.text import plural

    result = replay(run, count, seed)
    if as_json:
        return print_json(result.as_json())
    rate, differing = result.rate, result.rate.n - result.identical
    print(f"{run}: {result.identical} of {plural(rate.n, 'row')} have the same text again: "
          f"{rate.rate:.1%} ({rate.low:.1%} to {rate.high:.1%})")  # fmt: skip
    if differing:
        print(f"different: {differing}, the first time after about {result.first_difference:.0f} tokens (median)")
    if result.left_out:
        print(f"not drawn from: {plural(result.left_out, 'accepted row')} of another job, which a retry replaced")
    if not result.changes:
        print("versions, model and engine are those of the run")
    for change in result.changes:
        print(f"changed since the run: {change}")


@pool_app.command("start")
@logged
def pool_start(
    job: Job,
    overrides: Set = None,
    name: Annotated[str | None, typer.Option(help="name of the pool; by default the name of the job")] = None,
    idle_minutes: Annotated[float, typer.Option(help="minutes without a job after which the pool ends")] = 60.0,
) -> None:
    """Start the engines of a job's model, engine and cluster sections, and keep them running for later jobs."""
    from pipelines.jobfile import load_job

    loaded = load_job(job, overrides)
    from pipelines.pools import start_pool

    start_pool(loaded, name, idle_minutes)


@pool_app.command("list")
def pool_list(address: Address = None, as_json: Json = False) -> None:
    """List the pools of the cluster, with their replicas and jobs."""
    from dataclasses import asdict

    from pipelines.pools import list_pools
    from schemas.text import plural

    pools = list_pools(address)
    if as_json:
        return print_json({"pools": [asdict(pool) for pool in pools]})
    if not pools:
        print("no pool runs")
    for pool in pools:
        starting = f", {pool.starting} of them starting" if pool.starting else ""
        used = f"{plural(pool.jobs, 'job')}, {plural(pool.in_flight, 'request')} in flight" if pool.jobs else ""
        state = used or f"idle for {pool.idle_seconds / 60:.1f} min"
        print(f"{pool.name}: {pool.model}, {plural(pool.replicas, 'replica')}{starting}, {state}")


@pool_app.command("stop")
def pool_stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the pool")], address: Address = None
) -> None:
    """Stop a pool; jobs that use it continue with their own engines."""
    from pipelines.pools import stop_pool
    from schemas.text import plural

    print(f"{name}: {plural(stop_pool(name, address), 'replica')} stopped")


def runs(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="folder below which runs lie")] = "runs",
    as_json: Json = False,
) -> None:
    """List the runs below a folder: kind, state, how far each is, and how to go on."""
    hide_pandas()
    from pipelines.run_status.listing import runs

    listed = runs(folder)
    if as_json:
        return print_json({"runs": [run.as_json() for run in listed]})
    if not listed:
        return print(f"no run below {folder}")
    width = max(len(run.run) for run in listed)
    for run in listed:
        first, *more = run.lines()
        print(f"{run.run:{width}}  {run.kind:8}  {first}")
        for line in more:
            print(f"{'':{width}}  {'':8}  {line}")


def status(run: AnyRun, watch: Watch = False, as_json: WatchJson = False) -> None:
    """Show progress, goodput, ETA, replicas and rejects, from the run folder and from the endpoint of a running job."""
    hide_pandas()
    if watch:
        from pipelines.run_status.watch import watch as watch_run

        return watch_run(run, as_json)
    from pipelines.run_status.page import current_time, render_page
    from pipelines.run_status.status import status as status_of

    current = status_of(run)
    if as_json:
        print_json(current.as_json())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_OF_FILE
        print("\n".join(render_page(current, current_time(), width)))

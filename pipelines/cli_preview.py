"""The verb preview."""

import json
from typing import Annotated

import typer

Job = Annotated[str, typer.Argument(metavar="JOB", help="the job file (YAML)")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set sampling.temperature=0.7")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


def preview(
    job: Job,
    overrides: Set = None,
    count: Annotated[int, typer.Option("--count", "-n", help="rows to run")] = 16,
    seed: Annotated[int, typer.Option(help="draws them: the same seed, the same rows")] = 0,
    show: Annotated[int, typer.Option(min=0, help="rows to show in the terminal")] = 4,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="a new file for the page: .md or .html")
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="rows were added at the end of the input")] = False,
    as_json: Json = False,
) -> None:
    """Run a few rows of a job, and forecast the whole: tokens, time, cost, rejects; writes nothing to its output."""
    from rich.console import Console

    from pipelines.comparison_page import page_of
    from pipelines.jobfile import load_job
    from pipelines.previewing.page import preview_page, save_preview
    from pipelines.previewing.preview import preview

    if to is not None:
        page_of(to)  # before the work is done
    found = preview(load_job(job, overrides), count, seed, extend)
    if to is not None:
        save_preview(found, to)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        Console().print(preview_page(found, show))

"""The verb evaluate."""

import json
from typing import Annotated

import typer

from schemas.errors import EXIT_FAULTS
from services import logs

Job = Annotated[str, typer.Argument(metavar="JOB", help="the job file (YAML)")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set sampling.temperature=0.7")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


def evaluate(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """Measure models, or responses that are there already; docs/evaluation.md."""
    from rich.console import Console

    from pipelines.evaluation.job import evaluate
    from pipelines.evaluation.tables import rendered
    from pipelines.jobfile import load_job
    from schemas.evaluate import EvaluateJob

    report = evaluate(load_job(job, overrides, EvaluateJob))
    if as_json:
        print(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        Console().print(rendered(report.tables()))
        print(f"the tables and what they are of: {report.run}")
    for error in report.failures.values():
        logs.tell(f"error: {error}", event="error")
    if report.failures:
        raise typer.Exit(EXIT_FAULTS)

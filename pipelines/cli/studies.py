"""The verbs about studies: reproduce, report."""

from typing import Annotated

import typer

from pipelines.cli.options import Address, Json, Set, WordDefinition, hide_pandas, logged, print_json
from schemas.errors import EXIT_FAULTS

StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="the study file (YAML); see deploy/studies/")]


@logged
def reproduce(
    study: StudyFile,
    overrides: Set = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="JOB", help="run this job of the study alone; may be given several times"),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="run this job and all that need its output")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show the plan, and what it takes; run and write nothing")
    ] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run all jobs of a study, and write its report; what is done is not done again."""
    from pipelines.study.plan import read_plan

    plan = read_plan(study, overrides)  # before the imports that take seconds
    chosen = plan.chosen(only or [], start)
    if dry_run:
        from pipelines.study.forecast import forecast

        expected = forecast(plan, chosen)
        print_json(expected.as_json()) if as_json else print("\n".join(expected.lines()))
        return
    from pipelines.study.reproduce import reproduce

    result = reproduce(plan, only=only or (), start=start, address=address)
    if as_json:
        print_json(result.as_json())
    else:
        for name, state in result.states.items():
            print(f"{name:24} {state}{f': {result.errors[name]}' if name in result.errors else ''}")
        print(f"report: {result.report}" if result.report else f"kindling status {result.study} shows how far it is")
    if result.errors:
        raise typer.Exit(EXIT_FAULTS)


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="STUDY|RUN...", help="folder of a study, or run folders of any verb")
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="FILE.html", help="a new file for the page; FILE.md comes beside it"),
    ] = None,
    prompts: Annotated[int, typer.Option(min=0, help="number of prompts whose responses are shown; 0 for none")] = 200,
    rows: Annotated[int, typer.Option(min=0, help="number of rows of augmentations that are shown; 0 for none")] = 60,
    words: WordDefinition = "blanks",
    as_json: Json = False,
) -> None:
    """Show what a study found: the paper's questions, tables and figures, from result files; see docs/report.md."""
    hide_pandas()
    from rich.console import Console

    from pipelines.reporting.html_page import refuse_existing_pages, save_report
    from pipelines.reporting.report import report
    from pipelines.reporting.terminal_page import answers_page, terminal_page

    if to is not None:
        refuse_existing_pages(to)  # before the work is done
    result = report(runs, prompts, rows, words)
    page = save_report(result, to) if to is not None or result.study_folder else None
    if as_json:
        return print_json(result.as_json())
    Console().print(answers_page(result) if page else terminal_page(result))
    if page:
        print(f"{page}, and the same as Markdown beside it")

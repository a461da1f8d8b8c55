"""The verb about studies: reproduce."""

from typing import Annotated

import typer

from pipelines.cli.options import Address, Json, Set, logged, print_json
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
    plan.chosen(only or [], start)
    if dry_run:
        from pipelines.study.forecast import forecast

        expected = forecast(plan, plan.chosen(only or [], start))
        print_json(expected.as_json()) if as_json else print("\n".join(expected.lines()))
        return
    from pipelines.study.reproduce import reproduce

    result = reproduce(study, overrides or (), only or (), start, address)
    if as_json:
        print_json(result.as_json())
    else:
        for name, state in result.states.items():
            print(f"{name:24} {state}{f': {result.errors[name]}' if name in result.errors else ''}")
        print(
            f"study: {result.study}" + ("" if result.complete else f"; kindling status {result.study} shows its jobs")
        )
    if result.errors:
        raise typer.Exit(EXIT_FAULTS)

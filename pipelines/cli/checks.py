"""The verbs that need no engine: doctor, init, schema, check."""

from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Job, Json, Set, print_json
from schemas.errors import EXIT_FAULTS

if TYPE_CHECKING:
    from pipelines.checking.check import Check
    from pipelines.checking.job_data import DataCheck


def doctor(as_json: Json = False) -> None:
    """Look at this machine: packages, GPUs, memory, disk, ports, Ray; exits with 1 where no job can run."""
    from dataclasses import asdict

    from pipelines.checking.doctor import doctor
    from pipelines.checking.findings import finding_lines

    findings = doctor()
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print("\n".join(finding_lines(findings)))
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(EXIT_FAULTS)


def init(
    data: Annotated[str, typer.Argument(metavar="FILE", help="a data file, a folder of such files, or a glob")],
    to: Annotated[str, typer.Option("--to", metavar="JOB", help="the job file to write")] = "job.yaml",
) -> None:
    """Write a commented job file for a data file, with a recipe that fits its columns."""
    from pipelines.checking.new_job import RAY_IGNORE_FILE, new_job, write_job, write_ray_ignore_file

    job = new_job(data, to)
    write_job(job)
    print(f"wrote {' and '.join(job.files)}: recipe {job.recipe}")
    if write_ray_ignore_file():
        print(f"wrote {RAY_IGNORE_FILE}: a Ray job does not upload runs/ and checkpoints")
    print(f"next: read {'them' if len(job.files) > 1 else 'it'}, then run: kindling check {to}")


def schema() -> None:
    """Print the JSON schema of all job files, by which an editor completes and checks keys."""
    from pipelines.checking.editor_schema import editor_schema

    print_json(editor_schema())


def check(
    job: Job,
    overrides: Set = None,
    count: Annotated[int, typer.Option("--count", "-n", help="number of prompts to show")] = 3,
    seed: Annotated[int, typer.Option(help="seed of the draw: the same seed draws the same prompts")] = 0,
    extend: Annotated[bool, typer.Option("--extend", help="accept rows added at the end of the input")] = False,
    as_json: Json = False,
) -> None:
    """Check a job without an engine: keys, input, prompts, refused rows, model, GPUs, disk; exits with 1 on a fault."""
    from pipelines.jobfile import load_any_job

    verb, loaded = load_any_job(job, overrides)
    result: Check | DataCheck
    if verb == "augment":
        from pipelines.checking.check import check
        from pipelines.checking.check_page import check_lines

        result = check(loaded, count, seed, extend)
        lines = check_lines(result)
    else:
        from pipelines.checking.findings import finding_lines
        from pipelines.checking.job_data import check_data

        result = check_data(verb, loaded)
        lines = chain([f"{result.job}: a valid job file of `kindling {verb}`"], finding_lines(result.findings))
    if as_json:
        print_json({"verb": verb, **result.as_json()})
    else:
        print("\n".join(lines))
    if not result.can_start:
        raise typer.Exit(EXIT_FAULTS)

"""The verbs review, export and push: what people say of a run, and what leaves it."""

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.options import Json, Run, print_json
from schemas.errors import JobError
from schemas.text import plural, printable


class FileFormat(StrEnum):
    """Formats that `export` writes."""

    parquet = "parquet"
    jsonl = "jsonl"
    csv = "csv"
    messages = "messages"
    alpaca = "alpaca"
    prompt_completion = "prompt-completion"
    prompts = "prompts"


def review(
    run: Run,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILES]...", help="with --returned: files that reviewers sent back")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="FILE", help="a new file for the page: .html")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="number of rows to show")] = 200,
    seed: Annotated[int, typer.Option(help="seed of the draw: the same seed draws the same rows")] = 0,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="columns of your own file to show as the source; by default those of the prompt"
        ),
    ] = None,
    returned: Annotated[
        bool, typer.Option("--returned", help="count the files, and keep the verdicts with the run")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let people accept or reject sampled rows on a page that hides what the rules said; count what comes back."""
    if returned:
        return _tally(run, files or [], to, as_json)
    if files:
        raise JobError("FILES", files[0], "only returned files are named so", "add --returned before them")
    if to is None:
        remedy = "write a page with --to review.html, or count the files that came back with --returned FILES"
        raise JobError("--to", None, "no file is named for the page", remedy)
    from pipelines.reviewing.review import review

    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    page = review(run, to, count, seed, names)
    if as_json:
        return print_json(page.as_json())
    print(f"{plural(page.rows, 'row')} in {to}, drawn from {sum(group['rows'] for group in page.groups):,}:")
    for group in page.groups:
        name = f"rejected: {printable(group['rule'])}" if group["rule"] else group["state"]
        print(f"  {group['drawn']:>5} of {group['rows']:>9,}  {name}")
    for rule, rows in page.without_text.items():
        print(f"not shown: {plural(rows, 'row')} without a text: {printable(rule)}")
    print(f"the key stays with the run: {page.key}")
    print(f"give {to} to people, then: kindling review {run} --returned FILES")


def _tally(run: str, files: list[str], to: str | None, as_json: bool) -> None:
    """Counts what reviewers sent back."""
    if to is not None:
        raise JobError("--to", to, "it names a page, and --returned writes none", "leave one of them out")
    from rich.console import Console

    from pipelines.pages.tables import rendered
    from pipelines.reviewing.tally import tally_review
    from pipelines.reviewing.tally_page import tally_lines, tally_tables

    tally = tally_review(run, files)
    if as_json:
        return print_json(tally.as_json())
    for line in tally_lines(tally):
        print(line)
    Console().print(rendered(tally_tables(tally)))


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="a new .parquet, .jsonl or .csv file; or a new or empty folder")],
    file_format: Annotated[
        FileFormat | None,
        typer.Option(
            "--format",
            help="type of a folder's files (default parquet); or columns for trainers: messages, alpaca, "
            "prompt-completion; or prompts, for a run of evaluation_prompts",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="columns in their order; inputs.NAME is a column of your own file"),
    ] = None,
    flatten: Annotated[
        bool, typer.Option("--flatten", help="columns of your own file, in place of `inputs` with their JSON")
    ] = False,
    test: Annotated[float, typer.Option(help="share of the input rows in a split `test`: 0.1")] = 0.0,
    seed: Annotated[int, typer.Option(help="seed that chooses the rows of --test")] = 0,
    license_: Annotated[
        str | None, typer.Option("--license", help="license for the card, as the Hub names it: cc-by-4.0")
    ] = None,
    language: Annotated[str | None, typer.Option(help="languages for the card: en, or en,de")] = None,
    per_emotion: Annotated[
        int | None,
        typer.Option(min=1, help="number of prompts kept for each emotion; by default 30, as in the paper"),
    ] = None,
    reviewed: Annotated[
        bool,
        typer.Option(
            "--reviewed", help="only rows that people accepted in `kindling review`; unjudged rows are left out"
        ),
    ] = False,
    dedup: Annotated[
        bool, typer.Option("--dedup/--no-dedup", help="leave out the rows that `kindling dedup` removed")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a run's accepted rows as a dataset with a card, ready for load_dataset and the Hub, or as one file."""
    if file_format is FileFormat.prompts:
        options = {"columns": columns, "flatten": flatten, "test": test, "license": license_, "language": language}
        options |= {"reviewed": reviewed}
        for name in (name for name, value in options.items() if value):
            raise JobError(f"--{name}", options[name], "a set of prompts has one form", "leave the option out")
        return _export_prompts(run, to, per_emotion or 30, as_json)
    if per_emotion is not None:
        cause = "it limits the prompts in a set of prompts, and no such set is exported"
        raise JobError("--per-emotion", per_emotion, cause, "add --format prompts")
    from pipelines.publishing.export import export, load_command
    from pipelines.publishing.reviewed_rows import left_out_lines

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    exported = export(
        run,
        to,
        file_format.value if file_format else None,
        names,
        flatten,
        test,
        seed,
        license_,
        language,
        reviewed,
        dedup,
    )
    if as_json:
        return print_json(exported.as_json())
    unfinished = "" if exported.complete else " (the run is not complete)"
    splits = ", ".join(f"{rows} {name}" for name, rows in exported.splits.items())
    parts = f" ({splits})" if len(exported.splits) > 1 else ""
    files = plural(len(exported.files), "file")
    print(f"{exported.rows} rows{parts} in {files}{unfinished}")
    for line in left_out_lines(exported.left_out):
        print(f"left out: {line}")
    if any(exported.removed.values()):
        rules = ", ".join(f"{rows} {rule}" for rule, rows in exported.removed.items() if rows)
        print(f"left out, as `kindling dedup` found: {rules}")
    print(f"columns: {', '.join(exported.columns)}")
    print(f"load it: {load_command(exported)}")
    if not exported.complete:
        _print_what_is_left(run)


def push(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="folder of a trained model, of an export, or of a composed corpus")
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="name of the repository on the Hub: owner/name")],
    public: Annotated[bool, typer.Option("--public", help="make the repository public; by default private")] = False,
    as_json: Json = False,
) -> None:
    """Upload a trained model or a dataset, with its card, to the Hub, with the token of `hf auth login` or HF_TOKEN."""
    from pipelines.publishing.hub import push

    pushed = push(folder, repo, public)
    if as_json:
        return print_json(pushed.as_json())
    print(f"{len(pushed.files)} files are at {pushed.url} ({'private' if pushed.private else 'public'})")


def _export_prompts(run: str, to: str, per_emotion: int, as_json: bool) -> None:
    from pipelines.publishing.export_prompts import export_prompts

    exported = export_prompts(run, to, per_emotion)
    if as_json:
        return print_json(exported.as_json())
    columns = ("prompts", "short", "duplicates", "spare", "unparsed", "refused")
    print(f"{'emotion':16}{''.join(f'{name:>12}' for name in columns)}")
    for emotion, counts in exported.as_json()["emotions"].items():
        print(f"{emotion:16}{''.join(f'{counts[name]:12}' for name in columns)}")
    prompts = sum(len(emotion.prompts) for emotion in exported.emotions.values())
    print(f"{prompts} prompts in {to}{'' if exported.complete else ' (the run is not complete)'}")
    if not exported.complete:
        _print_what_is_left(run)


def _print_what_is_left(run: str) -> None:
    """Prints what an export of an unfinished run lacks, and how to go on."""
    from pipelines.run_status.augment import RunStatus
    from pipelines.run_status.status import status

    current = status(run)
    if isinstance(current, RunStatus) and current.logged:
        print(f"left out: {plural(current.logged, 'finished row')}, in shards that are not committed yet")
    for line in current.remedy_lines() or ["the job may still run: export again once `kindling status` says complete"]:
        print(line)

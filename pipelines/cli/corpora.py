"""The verbs about the output of runs: stats, compare, export, compose."""

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.options import Job, Json, Run, Set, logged, print_json
from schemas.errors import JobError
from schemas.text import plural

Corpora = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="run folders, or Parquet, JSONL, CSV or text files or folders")
]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="run folders")]


def stats(
    corpora: Corpora,
    text_column: Annotated[str, typer.Option(help="column with the stories, in files; a run has its own")] = "text",
    by: Annotated[
        list[str] | None,
        typer.Option(help="column (or column.key) whose values group the rows; may be given several times"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count stories, words, unique words and openings of corpora, side by side; see docs/corpora.md."""
    from rich.console import Console

    from pipelines.corpora.stats import stats
    from pipelines.corpora.stats_page import stats_page

    statistics = stats(corpora, text_column, by)
    if as_json:
        print_json(statistics.as_json())
    else:
        console = Console()
        console.print(stats_page(statistics, console.width))


def compare(
    runs: Runs,
    rows: Annotated[str | None, typer.Option(metavar="N,N,...", help="numbers of input rows, from 0")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="number of rows to draw, without --rows")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the draw: the same seed draws the same rows")] = 0,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="a new file for the page: .md or .html")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the outputs of the same input rows side by side, across runs and their variants, with durations."""
    from rich.console import Console

    from pipelines.corpora.comparison import compare
    from pipelines.corpora.comparison_page import comparison_page, page_of, save_comparison

    if to is not None:
        page_of(to)  # refuses a wrong ending before the work is done
    comparison = compare(runs, _row_numbers(rows), count, seed)
    if to is not None:
        save_comparison(comparison, to)
    if as_json:
        print_json(comparison.as_json())
    elif to is not None:
        print(f"{plural(len(comparison.rows), 'row')} compared in {to}")
    else:
        console = Console()
        console.print(comparison_page(comparison, console.width))


def _row_numbers(rows: str | None) -> list[int] | None:
    try:
        return None if rows is None else [int(number) for number in rows.split(",")]
    except ValueError:
        raise JobError("--rows", rows, "not a list of row numbers", "write it as --rows 3,17") from None


class FileFormat(StrEnum):
    """Formats that `export` writes."""

    parquet = "parquet"
    jsonl = "jsonl"
    csv = "csv"
    messages = "messages"
    alpaca = "alpaca"
    prompt_completion = "prompt-completion"
    prompts = "prompts"


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
    as_json: Json = False,
) -> None:
    """Write a run's accepted rows as a dataset with a card, ready for load_dataset and the Hub, or as one file."""
    if file_format is FileFormat.prompts:
        options = {"columns": columns, "flatten": flatten, "test": test, "license": license_, "language": language}
        for name in (name for name, value in options.items() if value):
            raise JobError(f"--{name}", options[name], "a set of prompts has one form", "leave the option out")
        return _export_prompts(run, to, per_emotion or 30, as_json)
    if per_emotion is not None:
        cause = "it limits the prompts in a set of prompts, and no such set is exported"
        raise JobError("--per-emotion", per_emotion, cause, "add --format prompts")
    from pipelines.publishing.export import export, load_command

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    exported = export(
        run, to, file_format.value if file_format else None, names, flatten, test, seed, license_, language
    )
    if as_json:
        return print_json(exported.as_json())
    unfinished = "" if exported.complete else " (the run is not complete)"
    splits = ", ".join(f"{rows} {name}" for name, rows in exported.splits.items())
    parts = f" ({splits})" if len(exported.splits) > 1 else ""
    files = "1 file" if len(exported.files) == 1 else f"{len(exported.files)} files"
    print(f"{exported.rows} rows{parts} in {files}{unfinished}")
    print(f"columns: {', '.join(exported.columns)}")
    print(f"load it: {load_command(exported)}")


@logged
def compose(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """Compose a training corpus from runs and text files, up to a budget of words; prints what it is made of."""
    from pipelines.jobfile import load_job
    from schemas.compose import ComposeJob

    loaded = load_job(job, overrides, ComposeJob)  # before the imports that take seconds
    from pipelines.corpora.composition import compose
    from pipelines.publishing.dataset_card import composition_notes, composition_table

    record = compose(loaded)
    if as_json:
        return print_json(record.model_dump(mode="json"))
    print(f"{record.job['output']['path']}: {record.words:,} words of {record.words_budget:,}")
    rows = [("part", "documents", "words", "share", "words a document"), *composition_table(record)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for name, *cells in rows:
        print(f"  {name:{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths[1:], strict=True)))
    for note in composition_notes(record):
        print(f"  {note}")


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

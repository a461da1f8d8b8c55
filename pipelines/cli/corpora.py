"""The verbs about what runs have written: stats, compare, export, compose."""

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.options import Job, Json, Run, Set, logged, print_json
from schemas.errors import JobError

Corpora = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="run folders, or Parquet, JSONL, CSV or text files or folders")
]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="run folders")]


def stats(
    corpora: Corpora,
    text_column: Annotated[str, typer.Option(help="the stories' column in what is no run")] = "text",
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column that rows are told apart by, or column.key; more than once for more of them"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Composition of corpora side by side: stories, words, unique words, how stories begin; docs/corpora.md."""
    from rich.console import Console

    from pipelines.corpora.stats import stats
    from pipelines.corpora.stats_page import stats_page

    found = stats(corpora, text_column, by)
    if as_json:
        print_json(found.as_json())
    else:
        console = Console()
        console.print(stats_page(found, console.width))


def compare(
    runs: Runs,
    rows: Annotated[str | None, typer.Option(metavar="N,N,...", help="numbers of input rows, from 0")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="rows to draw where --rows names none")] = 4,
    seed: Annotated[int, typer.Option(help="draws them: the same seed, the same rows")] = 0,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="a new file for the page: .md or .html")
    ] = None,
    as_json: Json = False,
) -> None:
    """The same input rows side by side, across runs and the variants of each, with their durations."""
    from rich.console import Console

    from pipelines.corpora.comparison import compare
    from pipelines.corpora.comparison_page import comparison_page, page_of, save_comparison

    if to is not None:
        page_of(to)  # before the work is done
    found = compare(runs, _numbers(rows), count, seed)
    if to is not None:
        save_comparison(found, to)
    if as_json:
        print_json(found.as_json())
    elif to is not None:
        print(f"{len(found.rows)} rows compared in {to}")
    else:
        console = Console()
        console.print(comparison_page(found, console.width))


def _numbers(rows: str | None) -> list[int] | None:
    try:
        return None if rows is None else [int(number) for number in rows.split(",")]
    except ValueError:
        raise JobError("--rows", rows, "not numbers of rows", "as in --rows 3,17") from None


class FileFormat(StrEnum):
    """What `export` writes."""

    parquet = "parquet"
    jsonl = "jsonl"
    prompts = "prompts"


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="a folder that is empty or not there yet; for prompts a file")],
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="of the data files; or prompts, for a run of evaluation_prompts")
    ] = FileFormat.parquet,
    per_emotion: Annotated[
        int | None, typer.Option(min=1, help="prompts to keep of each emotion; by default 30, as the paper asks")
    ] = None,
    as_json: Json = False,
) -> None:
    """The accepted rows as a dataset with a card, ready for load_dataset and the Hub; or a set of prompts."""
    if file_format is FileFormat.prompts:
        return _export_prompts(run, to, per_emotion or 30, as_json)
    if per_emotion is not None:
        raise JobError("--per-emotion", per_emotion, "only a set of prompts has so many", "add --format prompts")
    from pipelines.publishing.export import export

    exported = export(run, to, file_format.value)
    if as_json:
        return print_json(exported.as_json())
    unfinished = "" if exported.complete else " (the run is not complete)"
    print(f"{exported.rows} rows in {len(exported.files)} files{unfinished}")
    print(f'load it: datasets.load_dataset("{exported.to}", split="train")')


@logged
def compose(job: Job, overrides: Set = None, as_json: Json = False) -> None:
    """A training corpus from runs and text files, to a budget of words, with its composition table."""
    from pipelines.corpora.composition import compose
    from pipelines.jobfile import load_job
    from pipelines.publishing.dataset_card import composition_notes, composition_table
    from schemas.compose import ComposeJob

    record = compose(load_job(job, overrides, ComposeJob))
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
    prompts = sum(len(each.prompts) for each in exported.emotions.values())
    print(f"{prompts} prompts in {to}{'' if exported.complete else ' (the run is not complete)'}")

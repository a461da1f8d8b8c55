"""The verbs that look at what runs have written: stats, compare."""

import json
from typing import Annotated

import typer

from schemas.errors import JobError

Corpora = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="run folders, or Parquet, JSONL, CSV or text files or folders")
]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="run folders")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


def stats(
    corpora: Corpora,
    text_column: Annotated[str, typer.Option(help="the stories' column in what is no run")] = "text",
    by: Annotated[
        list[str] | None,
        typer.Option(help="a column that rows are told apart by, or column.key; more than once for more of them"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Composition of corpora side by side: stories, words, unique words, how stories begin; docs/corpus.md."""
    from rich.console import Console

    from pipelines.corpus_stats import stats
    from pipelines.stats_page import stats_page

    found = stats(corpora, text_column, by)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
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

    from pipelines.comparison import compare
    from pipelines.comparison_page import comparison_page, page_of, save_comparison

    if to is not None:
        page_of(to)  # before the work is done
    found = compare(runs, _numbers(rows), count, seed)
    if to is not None:
        save_comparison(found, to)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
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

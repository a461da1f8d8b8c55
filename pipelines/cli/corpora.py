"""The verbs about corpora: stats, compare, quality, dedup, compose."""

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from pipelines.cli.options import Job, Json, Run, Set, WordDefinition, logged, print_json
from schemas.errors import JobError
from schemas.text import plural, printable

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
    words: WordDefinition = "blanks",
    as_json: Json = False,
) -> None:
    """Count stories, words, unique words and openings of corpora, side by side; see docs/corpora.md."""
    from rich.console import Console

    from pipelines.corpora.stats import stats
    from pipelines.corpora.stats_page import stats_page

    statistics = stats(corpora, text_column, by, words)
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


def quality(
    corpora: Corpora,
    rules: Annotated[
        str | None,
        typer.Option(
            metavar="JOB|all", help="judge existing texts by the section `quality` of a job file, or by all rules"
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="column with the texts, in files; a run has its own")] = "text",
    emotion_column: Annotated[
        str | None, typer.Option(help="column with the emotion asked for, in files; by default emotion or emotions")
    ] = None,
    input_column: Annotated[
        list[str] | None,
        typer.Option(help="column that the texts were made from, in files; may be given several times"),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="column (or column.key) whose values group the rows; may be given several times"),
    ] = None,
    classifier: Annotated[str, typer.Option(help="classifier of emotions, as classifier.id of a job")] = "embedded",
    sample: Annotated[
        int, typer.Option(min=0, help="number of accepted texts of each run for emotions and variety; 0 for none")
    ] = 500,
    seed: Annotated[int, typer.Option(help="seed of the sample: the same seed draws the same rows")] = 0,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="a new file for the page with plots")
    ] = None,
    accepted: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="a new JSONL file for the rows of a file that --rules accepts"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what was accepted and why not, the emotions expressed, and how texts vary; runs and files side by side."""
    from rich.console import Console

    from pipelines.quality_report.html_page import HTML_OPTION, save_quality
    from pipelines.quality_report.report import quality
    from pipelines.quality_report.terminal_page import terminal_page
    from pipelines.run_folder import refuse_existing

    if html is not None:
        refuse_existing(html, HTML_OPTION)  # before the work is done
    columns = (text_column, emotion_column, input_column or (), by)
    report = quality(corpora, rules, *columns, classifier=classifier, sample=sample, seed=seed, accepted=accepted)
    if html is not None:
        save_quality(report, html)
    if as_json:
        print_json(report.as_json())
    elif html is not None:
        print(f"{plural(len(report.corpora), 'run')} in {html}")
    else:
        Console().print(terminal_page(report))


@logged
def dedup(
    run: Run,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="file, folder or glob with texts that no row may contain, such as blimp=blimp/; may be given several "
            "times",
        ),
    ] = None,
    opening_words: Annotated[int, typer.Option(min=1, help="number of words that make an opening")] = 4,
    max_opening: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="largest share of rows with one opening, 0.01; by default none is removed"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be removed; write nothing")] = False,
    as_json: Json = False,
) -> None:
    """Take near-duplicates, texts of test sets and common openings out of a run: export, compose, train leave them."""
    from pipelines.deduplication.dedup import dedup

    result = dedup(run, _reference_sets(reference or ()), opening_words, max_opening, dry_run)
    if as_json:
        return print_json(result.as_json())
    print(f"{plural(result.rows, 'accepted row')}{'' if result.complete else ' (the run is not complete)'}")
    for rule, rows in (*result.removed.items(), ("left", result.left)):
        print(f"  {rule:28}{rows:>10,}  {rows / result.rows:6.1%}")
    print(f"{plural(result.distinct_openings, 'different opening')} of {opening_words} words; the commonest:")
    for opening, rows in result.openings.items():
        print(f"  {printable(opening):28}{rows:>10,}  {rows / result.rows:6.1%}")
    for name, texts in result.searched.items():
        short = f"; {result.too_short[name]:,} with fewer than 5 words were not" if name in result.too_short else ""
        print(f"{name}: {plural(texts, 'text')} searched for{short}")
    if result.is_limited:
        print(f"each row was compared with the first {result.compared:,} rows alone: more do not fit into memory")
    print(f"export, compose and train leave these rows out: {result.to}" if result.to else "nothing was written")


def _reference_sets(options: Sequence[str]) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not (equals and path and re.fullmatch(r"[A-Za-z0-9_-]+", name)):
            cause = "not of the form NAME=PATH, with a name of letters, digits, `_` and `-`"
            raise JobError("--reference", option, cause, "write it as --reference blimp=blimp/")
        sets.setdefault(name, []).append(path)
    return sets


def _row_numbers(rows: str | None) -> list[int] | None:
    try:
        return None if rows is None else [int(number) for number in rows.split(",")]
    except ValueError:
        raise JobError("--rows", rows, "not a list of row numbers", "write it as --rows 3,17") from None


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

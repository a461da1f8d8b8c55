"""Pages of `kindling compare`: for a terminal, as Markdown, as HTML.

Texts come from data and models, so none may be more than text: no control character reaches a terminal, no markup
reaches a page, and the HTML has no script and has the browser load nothing.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pipelines.corpora.comparison import ComparedRow, Comparison, Output
from pipelines.pages.html import render_html
from pipelines.pages.markdown import escaped
from pipelines.run_folder import refuse_existing, write_errors
from schemas.errors import JobError
from schemas.outcomes import cut_off_share
from schemas.rows import ACCEPTED
from schemas.text import plural, printable
from services.storage.filesystem import resolve, write_atomic

# Width of an output in a terminal; as many outputs stand beside each other as fit.
_MIN_OUTPUT_WIDTH = 32
# Longer texts are cut in a terminal; the other pages show all of them.
_MAX_SHOWN_CHARACTERS = 4000
# Name of the only variant of a job without a sweep.
_ONLY_VARIANT = "default"


def comparison_page(comparison: Comparison, width: int) -> Group:
    """Makes the page for a terminal: each row with its outputs beside each other.

    Args:
        comparison: the comparison.
        width: width of the terminal in characters.
    """
    parts: list[RenderableType] = [Text(line) for line in _heading(comparison)]
    for row in comparison.rows:
        parts += [Text(), Rule(Text(_title(row), style="bold"), align="left", style="dim")]
        parts += [Text(_cut(f"{name}: {value}")) for name, value in _inputs(row.inputs)]
        beside = max(width // _MIN_OUTPUT_WIDTH, 1)
        parts += [_beside(row.outputs[at : at + beside]) for at in range(0, len(row.outputs), beside)]
    return Group(*parts)


def save_comparison(comparison: Comparison, to: str) -> None:
    """Writes a comparison to a new file: Markdown where its name ends with .md, HTML where it ends with .html.

    Raises:
        JobError: the name has another ending.
        RunError: a file is there already, or the place cannot be written.
    """
    page = page_of(to)(comparison)
    refuse_existing(to, "--to")
    fs, path = resolve(to, "--to")
    with write_errors(to, "--to"):
        write_atomic(fs, path, page.encode())


def page_of(to: str) -> Callable[[Comparison], str]:
    """Returns the function that makes the page for the ending of a file name.

    Raises:
        JobError: the name does not end with .md or .html.
    """
    ending = next((ending for ending in _PAGES if to.endswith(ending)), None)
    if ending is None:
        raise JobError("--to", to, "its ending names no format", "let it end with .md or .html")
    return _PAGES[ending]


def markdown_page(comparison: Comparison) -> str:
    """Makes a Markdown page with one table for each row, as in the appendices of the paper."""
    lines = [f"# {escaped(_name(comparison))}", "", *(f"- {escaped(line)}" for line in _heading(comparison))]
    for row in comparison.rows:
        lines += ["", f"## {escaped(_title(row))}", ""]
        lines += [f"- **{escaped(name)}**: {escaped(value)}" for name, value in _inputs(row.inputs)]
        lines += ["", "| run | what became of it | output |", "| --- | --- | --- |"]
        for output in row.outputs:
            facts = "\n".join(_facts(output))
            cells = (_label(output), facts, printable(output.text))
            lines.append(f"| {' | '.join(map(escaped, cells))} |")
    return "\n".join(lines) + "\n"


def html_page(comparison: Comparison) -> str:
    """Makes an HTML page that needs no other file."""
    rows = [
        {
            "title": _title(row),
            "inputs": list(_inputs(row.inputs)),
            "outputs": [
                {
                    "label": _label(output),
                    "accepted": output.state == ACCEPTED,
                    "facts": list(_facts(output)),
                    "text": printable(output.text),
                }
                for output in row.outputs
            ],
        }
        for row in comparison.rows
    ]
    values = {"name": _name(comparison), "heading": list(_heading(comparison)), "rows": rows}
    return render_html("pipelines.corpora", "comparison.html.jinja", **values)


_PAGES = {".md": markdown_page, ".html": html_page}


def _name(comparison: Comparison) -> str:
    return printable(f"Comparison of {', '.join(comparison.runs)}")


def _heading(comparison: Comparison) -> Iterator[str]:
    """Yields lines on keys that differ between the runs, texts that were cut off, sources that are not compared."""
    for key, values in comparison.differences.items():
        yield printable(f"{key}: {' | '.join(map(_text, values))}")
    if any(comparison.cut_off):
        pairs = zip(comparison.cut_off, comparison.accepted, strict=True)
        shares = ("not known" if cut is None or all_ is None else cut_off_share(cut, all_) for cut, all_ in pairs)
        yield f"cut off at max_tokens: {' | '.join(shares)}"
    for source in comparison.left_out:
        yield printable(f"not compared: {source}, which is not an input of all these runs")


def _title(row: ComparedRow) -> str:
    return printable(f"row {row.number}: {row.source}, row {row.row_index}")


def _inputs(inputs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in inputs.items():
        yield printable(name), printable(_text(value))


def _beside(outputs: list[Output]) -> Table:
    table = Table(expand=True, show_lines=True)
    for output in outputs:
        table.add_column(Text(_label(output)), ratio=1, overflow="fold")
    table.add_row(*(Text("\n".join(_facts(output)), style="dim") for output in outputs))
    table.add_row(*(Text(_cut(printable(output.text))) for output in outputs))
    return table


def _label(output: Output) -> str:
    """Formats the name of the run, with variant and sample where the row has several."""
    variant = [output.variant] if output.variant not in ("", _ONLY_VARIANT) else []
    sample = [f"sample {output.sample}"] if output.sample else []
    return printable(", ".join([output.run, *variant, *sample]))


def _facts(output: Output) -> Iterator[str]:
    """Yields the state of an output, its duration, and the inputs that it alone has."""
    refused = output.state != ACCEPTED and output.reason
    yield printable(f"{output.state}: {output.reason}" if refused else output.state)
    if output.duration_seconds is not None:
        cut_off = ", cut off" if output.finish_reason == "length" else ""
        yield f"{output.duration_seconds:.2f} s, {plural(output.output_tokens, 'token')}{cut_off}"
    for name, value in _inputs(output.inputs):
        yield f"{name}: {value}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    left = len(text) - _MAX_SHOWN_CHARACTERS
    return text if left <= 0 else f"{text[:_MAX_SHOWN_CHARACTERS]} ... and {left} characters more"

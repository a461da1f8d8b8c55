"""The page of a preview: prompts beside their outputs, and the forecast below; for terminal, Markdown or HTML."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.corpora.comparison import ComparedRow, Comparison, Output
from pipelines.corpora.comparison_page import save_comparison
from pipelines.previewing.estimates import Interval
from pipelines.previewing.forecast import Forecast
from pipelines.previewing.preview import Preview, PreviewedRow
from schemas.text import clock, plural, printable, shorten

# Longer texts are cut in a terminal; --json and a page have them whole.
_MAX_SHOWN_CHARACTERS = 900
# The terminal shows only the most frequent reasons for which rows are refused; --json has all.
_MAX_REASONS = 8


def preview_page(preview: Preview, rows: int) -> Group:
    """Returns the first `rows` rows and the forecast, for a terminal."""
    parts: list[RenderableType] = [_prompt_beside_output(row) for row in preview.rows[:rows]]
    if (hidden := len(preview.rows) - rows) > 0:
        more = plural(hidden, "row")
        parts.append(Text(f"... and {more} more, which --show {len(preview.rows)}, --to and --json have"))
    parts += [Text(line) for line in _refusal_lines(preview)]
    return Group(*parts, _forecast_table(preview.forecast), *(Text(note) for note in preview.forecast.notes))


def save_preview(preview: Preview, to: str) -> None:
    """Writes the rows and the forecast to a new file, in the format of the pages of `kindling compare`.

    Raises:
        JobError: the file's name ends neither with .md nor with .html.
        RunError: the file exists already, or cannot be written.
    """
    rows = [
        ComparedRow(row.number, row.source, row.row_index, {"prompt": _prompt_text(row)}, [_output(preview, row)])
        for row in preview.rows
    ]
    figures = {name: [value] for name, value in figures_of(preview.forecast)}
    notes = {f"note {number}": [note] for number, note in enumerate(preview.forecast.notes, 1)}
    save_comparison(Comparison([preview.job], {**figures, **notes}, [], rows), to)


def figures_of(forecast: Forecast) -> Iterator[tuple[str, str]]:
    """Yields name and value of each figure, formatted for a person."""
    done = f", and {forecast.done:,} are done" if forecast.done else ""
    yield "rows left", f"{forecast.rows:,}{done}"
    for name in ("accepted", "rejected", "errors"):
        yield name, _format_count(getattr(forecast, name))
    if forecast.cut_off:
        yield "cut off at max_tokens", _format_count(forecast.cut_off)
    if forecast.prompt_tokens and forecast.output_tokens:
        yield "prompt tokens", _format_count(forecast.prompt_tokens)
        yield "output tokens", _format_count(forecast.output_tokens)
    if forecast.wall_seconds and forecast.replica_hours:
        wall = forecast.wall_seconds
        replicas = f"on {forecast.replicas} replicas" if forecast.replicas > 1 else "on one replica"
        yield (
            "wall time",
            (
                f"{clock(wall.value)} ({clock(wall.low)} to {clock(wall.high)}) {replicas}, "
                f"{clock((forecast.start_seconds or 0) + (forecast.stop_seconds or 0))} of it to start and to stop"
            ),
        )
        yield "replica-hours", _format_hours(forecast.replica_hours)
    if forecast.gpu_hours:
        yield "GPU-hours", _format_hours(forecast.gpu_hours)
    if forecast.cost:
        yield "cost", f"{forecast.cost.value:,.2f} ({forecast.cost.low:,.2f} to {forecast.cost.high:,.2f})"


def _forecast_table(forecast: Forecast) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title_justify="left", show_header=False)
    table.title = Text(f"The whole job, with {forecast.confidence:.0%} intervals", style="bold")
    for name, value in figures_of(forecast):
        table.add_row(name, value)
    return table


def _refusal_lines(preview: Preview) -> Iterator[str]:
    for reason, rows in list(preview.refused.items())[:_MAX_REASONS]:
        yield printable(
            f"{rows:,} of {preview.looked_at:,} rows that were looked at would be refused: {shorten(reason)}"
        )


def _prompt_beside_output(row: PreviewedRow) -> Table:
    table = Table(expand=True, title_justify="left")
    title = f"row {row.number}: {row.source}, row {row.row_index}{_variant_and_sample(row)}"
    table.title = Text(printable(title), style="bold")
    state = row.state + (f": {row.reason}" if row.state != "accepted" and row.reason else "")
    cut_off = ", cut off" if row.finish_reason == "length" else ""
    header = f"{state}, {plural(row.output_tokens, 'token')} in {row.duration_seconds:.1f} s{cut_off}"
    table.add_column(Text(f"prompt, {plural(row.prompt_tokens, 'token')}"), ratio=1, overflow="fold")
    table.add_column(Text(printable(header)), ratio=1, overflow="fold")
    table.add_row(Text(_cut(printable(_prompt_text(row)))), Text(_cut(printable(row.text))))
    return table


def _variant_and_sample(row: PreviewedRow) -> str:
    variant = f", {row.variant}" if row.variant != "default" else ""
    return variant + (f", sample {row.sample}" if row.sample else "")


def _prompt_text(row: PreviewedRow) -> str:
    if len(row.messages) == 1:
        return row.messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in row.messages)


def _output(preview: Preview, row: PreviewedRow) -> Output:
    return Output(
        preview.job, row.state, row.reason, row.variant, row.sample, row.text, {}, row.finish_reason,
        row.output_tokens, row.duration_seconds,
    )  # fmt: skip


def _cut(text: str) -> str:
    left = len(text) - _MAX_SHOWN_CHARACTERS
    half = _MAX_SHOWN_CHARACTERS // 2
    return text if left <= 0 else f"{text[:half]} [... {left} characters ...] {text[-half:]}"


def _format_count(interval: Interval) -> str:
    if interval.low == interval.high:
        return f"{interval.value:,.0f}"
    return f"{interval.value:,.0f} ({interval.low:,.0f} to {interval.high:,.0f})"


def _format_hours(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"

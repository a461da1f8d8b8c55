"""`kindling preview`: runs a few rows of a job, and forecasts the whole job. Nothing is written."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.augmentation.budget import list_spent_on_disk
from pipelines.jobfile import as_job
from pipelines.previewing.forecast import Forecast, make_forecast
from pipelines.previewing.rendering import render_job
from pipelines.previewing.rows import RenderedRow
from pipelines.previewing.running import run_rows
from pipelines.result import Result
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.run import RunRecord
from schemas.text import format_amount
from services.replicas.placement import check_model

_MIN_ROWS = 2
# With so many rows the means of their prompts' figures are within a percent or two of those of the whole job.
_MAX_RENDERED = 2000


@dataclass(frozen=True)
class PreviewedRow:
    """A row that ran, and its output.

    Attributes:
        number: number of its input row, counted over all sources.
        messages: its prompt, as messages with role and content.
        duration_seconds: time from its request to its last token; 0 where nothing was generated.
    """

    number: int
    source: str
    row_index: int
    sample: int
    variant: str
    messages: list[dict[str, str]]
    state: str
    reason: str
    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    duration_seconds: float


@dataclass(frozen=True)
class Preview(Result):
    """Rows and forecast that `kindling preview` shows.

    Attributes:
        job: name of the job.
        looked_at: number of rows whose prompts were rendered.
        refused: number of these rows that are refused before they are generated, by reason.
    """

    job: str
    rows: list[PreviewedRow]
    looked_at: int
    refused: dict[str, int]
    forecast: Forecast

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each previewed row."""
        return [asdict(row) for row in self.rows]


def preview(
    job: AugmentJob | Mapping[str, Any] | str | Path, rows: int = 16, seed: int = 0, extend: bool = False
) -> Preview:
    """Runs some rows of a job and forecasts the rows that it has left. Writes nothing.

    Args:
        job: a job, the same as a dict, or the path of a job file.
        rows: number of rows to run; all rows that are left, if they are fewer.
        seed: seed of the draw; the same seed draws the same rows.
        extend: accepts an input that has more rows at its end than the run began with.

    Raises:
        JobError: `rows` is below 2, or the job, its input, or its settings are wrong, or the run is complete.
        RunError: the run folder cannot be read, or holds the run of another job.
        EngineError: the model or engine cannot be started.
        StoppedError: a stop signal came.
    """
    if rows < _MIN_ROWS:
        raise JobError("-n", rows, "one row tells nothing of how rows differ", "give 2 or more; 16 to 32 tell the time")
    job = as_job(job)
    rendered = render_job(job, seed, extend, _MAX_RENDERED)
    population = rendered.population
    if population is None:
        remedy = "name another output.path to preview the job from its start"
        raise JobError("output.path", job.output.path, "the run there is complete: no row is left", remedy)
    check_model(job.model, job.cluster)
    drawn = population.draw(rows, seed)
    fillers = [row.work for row in population.fillers(drawn, seed)]
    run = run_rows(job, rendered.variants, [row.work for row in drawn], fillers) if drawn else None
    records = run.records if run else []
    shown = [_previewed_row(row, record, rendered.messages(row)) for row, record in zip(drawn, records, strict=True)]
    forecast = make_forecast(population, drawn, run, job.cluster.replicas, job.cluster.price_per_replica_hour, seed)
    notes = [*forecast.notes, *_budget_notes(job, rendered.run, forecast), *_target_notes(job, forecast)]
    forecast = replace(forecast, notes=notes)
    return Preview(job.name, shown, len(population.rendered), population.refusals(), forecast)


def _target_notes(job: AugmentJob, forecast: Forecast) -> Iterator[str]:
    """Yields a sentence where the job ends before its last row, because enough rows are accepted."""
    target = job.target_accepted
    if target is None or not forecast.accepted.value:
        return
    if forecast.accepted.value > target:
        rows = math.ceil(forecast.rows * target / forecast.accepted.value)
        yield f"target_accepted = {target:,} ends the job after about {rows:,} rows; the figures are for all rows"
    else:
        yield f"target_accepted = {target:,} will not be reached: about {forecast.accepted.value:,.0f} are accepted"


def _budget_notes(job: AugmentJob, run: RunRecord, forecast: Forecast) -> Iterator[str]:
    """Yields a sentence for each limit that the rows that are left will pass, or may pass."""
    intervals = {"tokens": forecast.output_tokens, "hours": forecast.replica_hours, "cost": forecast.cost}
    for part in list_spent_on_disk(job, run):
        interval = intervals[part.key.removeprefix("budget.")]
        if interval is not None and interval.high > part.left:
            low, value, high = map(format_amount, (interval.low, interval.value, interval.high))
            is_likely = interval.value > part.left
            rows = part.left / interval.value * forecast.rows
            ends = f"stops after about {rows:,.0f} of them" if is_likely else "may stop before its end"
            yield (
                f"warning: {part.amount(part.left)} are left of {part.key}, and the {forecast.rows:,} "
                f"rows that are left take {value} ({low} to {high}): the job {ends}"
            )


def _previewed_row(row: RenderedRow, record: Mapping[str, Any], messages: list[dict[str, Any]]) -> PreviewedRow:
    work = row.work
    columns = ("state", "reason", "text", "finish_reason", "prompt_tokens", "output_tokens", "duration_seconds")
    return PreviewedRow(
        row.number, work.source, work.row_index, work.sample, work.variant, messages,
        **{name: record[name] for name in columns},
    )  # fmt: skip

"""`kindling preview`: runs a few rows of a job, and forecasts the whole job. Nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.augmentation.augment import facts_of, near_duplicates_of, variant_settings
from pipelines.augmentation.plan import planned_run
from pipelines.inputs.reader import InputReader, InputRows
from pipelines.jobfile import as_job
from pipelines.previewing.forecast import Forecast, make_forecast
from pipelines.previewing.rows import RenderedRow, draw_outputs, render_rows
from pipelines.previewing.running import run_rows
from pipelines.recipes import all_fields, make_recipes, optional_fields
from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from services.replicas.row_records import VariantSettings
from services.storage.store import ShardStore

_MIN_ROWS = 2


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
class Preview:
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

    def as_json(self) -> dict[str, Any]:
        """Returns plain values, for `--json`."""
        return asdict(self)


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
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    variants = variant_settings(job, recipes)
    try:
        planned = planned_run(store, job, recipes, reader.inputs, extend, **facts_of(job, recipes))
        outputs, rows_left = draw_outputs(store, planned, seed)
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        raise RunError("output.path", store.url, cause, "name a folder that you may read") from None
    if not rows_left:
        remedy = "name another output.path to preview the job from its start"
        raise JobError("output.path", store.url, "the run there is complete: no row is left", remedy)
    recipe = next(iter(recipes.values()))
    duplicates = near_duplicates_of(reader, recipe) if recipe.rejects_near_duplicates else {}
    rows_to_render = _input_rows(job, reader, outputs)
    population = render_rows(planned, rows_to_render, variants, outputs, rows_left, duplicates)
    drawn = population.draw(rows, seed)
    fillers = [row.work for row in population.fillers(drawn, seed)]
    run = run_rows(job, variants, [row.work for row in drawn], fillers) if drawn else None
    records = run.records if run else []
    shown = [_previewed_row(row, record, variants) for row, record in zip(drawn, records, strict=True)]
    forecast = make_forecast(population, drawn, run, job.cluster.replicas, job.cluster.price_per_replica_hour, seed)
    return Preview(job.name, shown, len(population.rendered), population.refusals(), forecast)


def _input_rows(job: AugmentJob, reader: InputReader, outputs: Sequence[tuple[int, int]]) -> InputRows:
    if job.classifier is None:
        return reader
    # Imports transformers, which takes seconds.
    from pipelines.augmentation.fitting_emotions import FittingEmotions

    numbers = dict(outputs)  # each input row once
    return FittingEmotions(reader, job.classifier, [(number, number + 1) for number in numbers])


def _previewed_row(
    row: RenderedRow, record: Mapping[str, Any], variants: Mapping[str, VariantSettings]
) -> PreviewedRow:
    work, settings = row.work, variants[row.work.variant]
    prompt = settings.recipe.render(work.values or {}, settings.seed_of(work))
    columns = ("state", "reason", "text", "finish_reason", "prompt_tokens", "output_tokens", "duration_seconds")
    return PreviewedRow(
        row.number, work.source, work.row_index, work.sample, work.variant, prompt.messages,
        **{name: record[name] for name in columns},
    )  # fmt: skip

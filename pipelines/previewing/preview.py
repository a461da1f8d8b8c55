"""`kindling preview`: a few rows of a job for real, and what the whole job will come to. Nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.augmentation.augment import facts_of, near_duplicates_of, variant_settings
from pipelines.augmentation.plan import planned_run
from pipelines.inputs.reader import InputReader, InputRows
from pipelines.jobfile import as_job
from pipelines.previewing.forecast import Forecast, forecast_of
from pipelines.previewing.rows import Candidate, drawn_numbers, look_at
from pipelines.previewing.running import run
from pipelines.recipes import all_fields, make_recipes, optional_fields
from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from services.replicas.row_records import VariantSettings
from services.storage.store import ShardStore

_LEAST_ROWS = 2


@dataclass(frozen=True)
class PreviewedRow:
    """A row that was run, or would not be.

    Attributes:
        number: of its input row, counted over all sources.
        messages: its prompt; none where the row has none.
        duration_seconds: of its request; 0 where nothing was generated.
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
    """What `kindling preview` found.

    Attributes:
        job: its name.
        refused: of the rows that were looked at without running them, how many are refused, by reason.
        looked_at: how many those are.
    """

    job: str
    rows: list[PreviewedRow]
    looked_at: int
    refused: dict[str, int]
    forecast: Forecast

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def preview(
    job: AugmentJob | Mapping[str, Any] | str | Path, rows: int = 16, seed: int = 0, extend: bool = False
) -> Preview:
    """Runs some rows of a job and forecasts the whole of it, or what is left of it. Writes nothing.

    Args:
        job: a job, the same as a dict, or the path of a job file.
        rows: how many to run; where fewer are left, all of them.
        seed: seed of the draw; the same seed draws the same rows.
        extend: accept an input that has more rows at its end than the run began with.

    Raises:
        KindlingError: the job, its input, its model or the run folder is at fault.
        StoppedError: a signal came.
    """
    if rows < _LEAST_ROWS:
        raise JobError("-n", rows, "one row tells nothing of how rows differ", "give 2 or more; 16 to 32 tell the time")
    job = as_job(job)
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    variants = variant_settings(job, recipes)
    try:
        planned = planned_run(store, job, recipes, reader.inputs, extend, **facts_of(job, recipes))
        numbers, left = drawn_numbers(store, planned, seed)
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        raise RunError("output.path", store.url, cause, "name a folder that you may read") from None
    if not left:
        remedy = "name another output.path to preview the job from its start"
        raise JobError("output.path", store.url, "the run there is complete: no row is left", remedy)
    recipe = next(iter(recipes.values()))
    duplicates = near_duplicates_of(reader, recipe) if recipe.rejects_near_duplicates else {}
    population = look_at(planned, _with_emotions(job, reader, numbers), variants, numbers, left, duplicates)
    drawn = population.draw(rows, seed)
    others = [each.work for each in population.others(drawn, seed)]
    ran = run(job, variants, [each.work for each in drawn], others) if drawn else None
    shown = [_shown(each, record, variants) for each, record in zip(drawn, ran.records if ran else [], strict=True)]
    forecast = forecast_of(population, drawn, ran, job.cluster.replicas, job.cluster.price_per_replica_hour, seed)
    return Preview(job.name, shown, len(population.looked_at), population.refused(), forecast)


def _with_emotions(job: AugmentJob, reader: InputRows, numbers: Sequence[tuple[int, int]]) -> InputRows:
    if job.classifier is None:
        return reader
    from pipelines.augmentation.fitting_emotions import (
        FittingEmotions,  # transformers comes with it, which takes seconds
    )

    return FittingEmotions(reader, job.classifier, [(number, number + 1) for number in dict(numbers)])


def _shown(candidate: Candidate, record: Mapping[str, Any], variants: Mapping[str, VariantSettings]) -> PreviewedRow:
    work, settings = candidate.work, variants[candidate.work.variant]
    prompt = settings.recipe.render(work.values or {}, settings.seed_of(work))
    told = ("state", "reason", "text", "finish_reason", "prompt_tokens", "output_tokens", "duration_seconds")
    return PreviewedRow(
        candidate.number, work.source, work.row_index, work.sample, work.variant, prompt.messages,
        **{name: record[name] for name in told},
    )  # fmt: skip

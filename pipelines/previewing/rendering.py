"""The rows that a job has left, rendered without an engine: for `preview`, which then runs some, and for `check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.augmentation.plan import facts_of, near_duplicates_of, planned_run, variant_settings
from pipelines.inputs.reader import InputReader, InputRows
from pipelines.previewing.rows import Population, RenderedRow, draw_outputs, render_rows
from pipelines.recipes import all_fields, make_recipes, optional_fields
from schemas.augment import AugmentJob
from schemas.errors import RunError
from schemas.run import RunRecord
from services.replicas.row_records import VariantSettings
from services.storage.store import ShardStore


@dataclass(frozen=True)
class RenderedJob:
    """Rows of a job as they would be sent to an engine.

    Attributes:
        run: the run as it would be planned now.
        variants: settings of each variant, by its name.
        population: the rows that are left, some or all of them rendered; None where the run is complete.
    """

    run: RunRecord
    variants: dict[str, VariantSettings]
    population: Population | None

    def messages(self, row: RenderedRow) -> list[dict[str, Any]]:
        """Returns the prompt of a row that is generated, as messages with role and content."""
        settings = self.variants[row.work.variant]
        return settings.recipe.render(row.work.values or {}, settings.seed_of(row.work)).messages


def render_job(job: AugmentJob, seed: int, extend: bool, max_rows: int) -> RenderedJob:
    """Renders a random sample of the rows that a job has left, or all of them. Writes nothing.

    Args:
        job: the job.
        seed: seed of the sample.
        extend: accepts an input that has more rows at its end than the run began with.
        max_rows: number of rows to render; where fewer are left, all are.

    Raises:
        JobError: the job, its input, or its settings are wrong.
        RunError: the run folder cannot be read, or holds the run of another job.
        EngineError: the classifier of the job cannot be loaded.
    """
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    variants = variant_settings(job, recipes)
    try:
        run = planned_run(store, job, recipes, reader.inputs, extend, **facts_of(job, recipes))
        outputs, rows_left = draw_outputs(store, run, seed, max_rows)
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        raise RunError("output.path", store.url, cause, "name a folder that you may read") from None
    if not rows_left:
        return RenderedJob(run, variants, None)
    recipe = next(iter(recipes.values()))
    duplicates = near_duplicates_of(reader, recipe) if recipe.rejects_near_duplicates else {}
    rows = with_emotions(job, reader, outputs)
    return RenderedJob(run, variants, render_rows(run, rows, variants, outputs, rows_left, duplicates))


def with_emotions(job: AugmentJob, reader: InputReader, outputs: Sequence[tuple[int, int]]) -> InputRows:
    """Returns the input with the emotions that the job's classifier picks for the rows of some outputs.

    Args:
        job: the job.
        reader: its input.
        outputs: input rows, and which of their outputs.
    """
    if job.classifier is None:
        return reader
    # Imports transformers, which takes seconds.
    from pipelines.augmentation.fitting_emotions import FittingEmotions

    numbers = dict(outputs)  # each input row once
    return FittingEmotions(reader, job.classifier, [(number, number + 1) for number in numbers])

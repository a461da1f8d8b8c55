"""`kindling replay`: generates rows of a run again, with its own job, model, prompts and seeds, and compares the texts.

Invariant: nothing is written into the run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from eval.intervals import Rate, rate_of
from pipelines.augmentation.plan import facts_of, new_run, variant_settings
from pipelines.inputs.reader import InputReader
from pipelines.previewing.rendering import with_emotions
from pipelines.previewing.rows import common_characters
from pipelines.previewing.running import run_rows
from pipelines.recipes import all_fields, job_of_run, make_recipes, optional_fields
from pipelines.replaying.drawn_rows import DrawnRow, draw_rows, work_of
from pipelines.result import Result
from pipelines.run_folder import kind_of, lines_of, open_run, versions
from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from schemas.fingerprint import difference
from schemas.row_programs import REASONING
from schemas.run import RunRecord
from services.engines.choices import CHOICES
from services.engines.engine import EngineInfo
from services.replicas.placement import check_model
from services.replicas.row_records import VariantSettings
from services.storage.store import ShardStore

# What a row is made from. A change of anything else is reported beside the result.
_MADE_FROM = ("inputs.", "prompt_hash", "classifier_revision")
_WITHOUT_SEEDS = {
    "run": "its engines had one seed each, which gives the same texts only if all requests meet again as they did",
    "none": "its sampling had no seeds, so each row has another text each time",
}


@dataclass(frozen=True)
class ReplayedRow:
    """A row that was generated again.

    Attributes:
        state, reason: state in which it ended now, and why.
        text: its text in the run.
        replayed: its text now.
        first_difference: number of tokens before the two differ, by the row's own characters for each token; None
            where the texts are the same.
    """

    source: str
    row_index: int
    sample: int
    variant: str
    state: str
    reason: str
    text: str
    replayed: str
    first_difference: int | None


@dataclass(frozen=True)
class Replay(Result):
    """Result of `kindling replay`.

    Attributes:
        run: the run folder.
        identical: number of rows whose text is the same.
        rate: their share, with its 95% interval.
        first_difference: median number of tokens before the first difference, of the other rows; None without any.
        changes: what is different from the run: versions, model, engine, rules.
        left_out: number of accepted rows that were not drawn from, since a retry changed the job after them.
        rows: the rows.
    """

    run: str
    identical: int
    rate: Rate
    first_difference: float | None
    changes: list[str]
    left_out: int
    rows: list[ReplayedRow]

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each row that was generated again."""
        return [vars(row) for row in self.rows]


def replay(url: str, rows: int = 100, seed: int = 0) -> Replay:
    """Generates accepted rows of a run again, on one engine, and compares their texts. Writes nothing.

    Args:
        url: the run folder.
        rows: number of rows; all accepted rows, where there are no more.
        seed: seed of the draw: the same seed draws the same rows.

    Raises:
        JobError: `rows` is below 1.
        RunError: the folder holds no run of `kindling augment`, or one without seeds or without rows; or what its rows
            were made from is gone or changed.
        EngineError: the model or engine cannot be started.
        StoppedError: a stop signal came.
    """
    if rows < 1:
        raise JobError("-n", rows, "no row tells nothing", "give 1 or more; 100 is usual")
    store = ShardStore(url)
    if (kind := kind_of(store)) not in ("augment", None):
        cause = f"the folder belongs to a job of `kindling {kind}`"
        raise RunError("RUN", url, cause, "name the run folder of a job of `kindling augment`")
    run = open_run(store)
    try:
        job = job_of_run(run.job)
        recipes = make_recipes(job)
        reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
        variants = variant_settings(job, recipes)
        now = new_run(job, recipes, reader.inputs, facts_of(job, recipes))
    except JobError as error:
        cause = f"its rows cannot be made again: {error.key} = {error.value}: {error.cause}"
        remedy = "run it in the folder where the job ran, with its input, prompts and rules in their places"
        raise RunError("RUN", url, cause, remedy) from None
    _refuse_unseeded(url, job, variants)
    changes = difference(run.identity, now.identity)
    if made_from := [change for change in changes if change.startswith(_MADE_FROM)]:
        cause = "what its rows were made from is not what it was:" + lines_of(made_from)
        raise RunError("RUN", url, cause, "put the old files back in their places")
    check_model(job.model, job.cluster)
    drawn, left_out = draw_rows(store, run, rows, seed)
    numbers = [divmod(row.output_id, run.outputs_per_row) for row in drawn]
    work = work_of(drawn, run, with_emotions(job, reader, numbers), recipes)
    engine = run_rows(job, variants, work)
    compared = [_compared(row, record) for row, record in zip(drawn, engine.records, strict=True)]
    places = [row.first_difference for row in compared if row.first_difference is not None]
    identical = len(compared) - len(places)
    changes += _changes(store, run, drawn, engine.info)
    share = rate_of(identical, len(compared))
    return Replay(url, identical, share, median(places) if places else None, changes, left_out, compared)


def _refuse_unseeded(url: str, job: AugmentJob, variants: Mapping[str, VariantSettings]) -> None:
    """Refuses a run whose texts cannot be expected again; at temperature 0 they need no seeds.

    Raises:
        RunError: the run is one.
    """
    samplings = [sampling for settings in variants.values() for sampling in settings.samplings]
    if job.seeds != "row" and any(each["temperature"] for each in samplings if CHOICES not in each):
        cause = f"it has `seeds: {job.seeds}`: {_WITHOUT_SEEDS[job.seeds]}"
        raise RunError("RUN", url, cause, "replay a run with `seeds: row`, or one with temperature 0")


def _compared(row: DrawnRow, record: Mapping[str, Any]) -> ReplayedRow:
    before, now = (each.get(REASONING.name, "") + each["text"] for each in (row.record, record))
    place = None
    if record["text"] != row.record["text"]:
        same = common_characters(before, now)
        place = round(row.record["output_tokens"] * same / max(len(before), 1))
    return ReplayedRow(
        **{name: record[name] for name in ("source", "row_index", "sample", "variant", "state", "reason")},
        text=row.record["text"],
        replayed=record["text"],
        first_difference=place,
    )


def _changes(store: ShardStore, run: RunRecord, drawn: list[DrawnRow], info: EngineInfo) -> Iterator[str]:
    """Yields a line for each difference between the engine now and those that wrote the rows."""
    if info.model_revision != run.model_revision:
        yield f"model: {run.model_revision} -> {info.model_revision}"
    now = {**versions(), **info.versions}
    wrote = (store.read_manifest(part).versions for part in {row.part: None for row in drawn})
    yield from dict.fromkeys(line for before in wrote for line in difference(before, now))
    yield from (f"engine.{line}" for line in difference(run.engine, info.settings))

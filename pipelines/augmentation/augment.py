"""`kindling augment`: a corpus in, committed Parquet shards out."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.augmentation.plan import plan_run, work_rows
from pipelines.augmentation.progress import Display, Progress, counts_text
from pipelines.inputs.reader import InputReader, InputRows
from pipelines.jobfile import as_job
from pipelines.publishing.dataset_card import dataset_card
from pipelines.recipes import all_fields, make_recipes, optional_fields
from pipelines.run_folder import claimed, unwritable, write_errors
from pipelines.stopping import stop_signals
from schemas.augment import AugmentJob
from schemas.errors import RunError, StoppedError
from schemas.job import Classifier
from schemas.run import RunRecord
from services.cluster import connect_to_ray
from services.observability.endpoint import register_target, serve_metrics
from services.observability.series import AugmentMetrics
from services.replicas.coordinator import Coordinator
from services.replicas.replica_pool import Member, ReplicaPool
from services.replicas.row_records import Recipe, VariantSettings
from services.storage.lease import Lease
from services.storage.shard_index import ShardIndex, read_index
from services.storage.shard_writer import ShardWriter, read_logged_rows
from services.storage.store import ShardStore

if TYPE_CHECKING:
    from pipelines.augmentation.fitting_emotions import FittingEmotions

_log = logging.getLogger("kindling")


@dataclass(frozen=True)
class Summary:
    """What a finished `augment` did.

    Attributes:
        rows: of the whole run, by state.
        generated: rows that this start generated; the others were there.
        serving_seconds: from the first engine of this start being up until the last row was durable.
        tokens_per_second: output tokens of accepted rows over that time.
        coordinator_seconds: processor time of the thread that hands rows out and takes them back.
        writer_seconds: processor time of the thread that logs and commits them.
    """

    run: str
    rows: dict[str, int]
    shards: int
    output_tokens: int
    generated: int
    serving_seconds: float
    tokens_per_second: float
    coordinator_seconds: float
    writer_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def augment(job: AugmentJob | Mapping[str, Any] | str | Path, extend: bool = False) -> Summary:
    """Runs or resumes an augmentation job.

    Args:
        job: a job, the same as a dict, or the path of a job file.
        extend: accept an input that has more rows at its end than the run began with.

    Raises:
        KindlingError: the job, its input, its model or the run folder is at fault.
        StoppedError: a signal, or a full disk, ended it early; what was finished is kept, and the same call resumes.
    """
    job = as_job(job)
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    variants = variant_settings(job, recipes)
    # From here on a signal is a wish, and no exception in whatever runs at that moment.
    with claimed(store, "augment") as lease, stop_signals(job.cluster.grace_seconds) as signalled:
        run = plan_run(store, job, recipes, reader.inputs, extend, **facts_of(job, recipes))
        metrics = AugmentMetrics(run.name)
        metrics.free_bytes.set_function(store.free_bytes)
        if (price := job.cluster.price_per_replica_hour) is not None:
            metrics.price.set(price)
        with write_errors(store.url, resumable=True):
            progress, index = Progress(run, metrics), read_index(store, run)
            # Before anybody may look: a counter that begins with less than was told is taken for one that was reset.
            progress.on_committed_before(totals := index.totals())
            for rows in read_logged_rows(store, run, index.committed):
                progress.on_logged_before(rows)
            with serve_metrics(metrics, job.metrics) as run.metrics:
                index.save_if_due()
                store.write_text("README.md", dataset_card(run, totals.counts, "data/*.parquet"))
                if progress.shards < run.shards:
                    with _last_metrics_kept(store, lease, run, metrics):
                        _generate(job, run, reader, store, lease, variants, progress, index, signalled)
                else:
                    store.remove_logs()  # a driver that died right after the last commit left one
                    _log.info("%s is complete: nothing to do", store.url)
                store.write_text("README.md", dataset_card(run, progress.rows, "data/*.parquet"))
        return _summary(store, progress)


def _generate(
    job: AugmentJob,
    run: RunRecord,
    reader: InputRows,
    store: ShardStore,
    lease: Lease,
    variants: dict[str, VariantSettings],
    progress: Progress,
    index: ShardIndex,
    signalled: Callable[[], float | None],
) -> None:
    run.start_id = progress.metrics.start_id
    store.write_run(run)  # engines take minutes to start, and whoever looks meanwhile is to find the endpoint
    if progress.finished:
        _log.info("resuming %s: %s", store.url, counts_text(progress.rows))
    # Before any engine starts, and the same at each start, whoever generates a row, and when.
    if job.classifier is not None:
        reader = _with_emotions(reader, job.classifier, run, index.committed, signalled)
    recipe = next(iter(variants.values())).recipe  # what is compared is the input, whatever the variant
    duplicates = near_duplicates_of(reader, recipe) if recipe.compares else {}
    with (
        connect_to_ray(job.cluster.address) as ray_metrics,
        register_target(ray_metrics, job.metrics, job="ray"),
        Display(progress) as display,
    ):
        writer = ShardWriter(store, run, index, lease, progress.on_rows, progress.on_commit)
        pool = ReplicaPool(job.model, job.engine, job.cluster, variants)

        def stop_within() -> float | None:
            if progress.due():
                display.update(serving=any(member.phase == "serving" for member in pool.members))
                progress.publish(pool)
            return signalled() if writer.error is None else 0.0

        def on_ready(member: Member) -> None:
            progress.on_serving(member)
            _record_engine(store, run, member)

        recipes = {name: settings.recipe for name, settings in variants.items()}
        rows = work_rows(run, reader, recipes, writer, index.committed, duplicates)
        left = progress.total - progress.finished
        coordinator = Coordinator(pool, variants, rows, left, writer.put, stop_within, on_ready)
        progress.metrics.add_replica_series(coordinator.replicas)
        try:
            done = coordinator.run()
        finally:
            writer.close()
            progress.on_end()
            progress.coordinator_seconds, progress.writer_seconds = coordinator.cpu_seconds, writer.cpu_seconds
            pool.stop()
            progress.publish(pool)
    if writer.error is not None:
        raise unwritable(store.url, writer.error, resumable=True) from writer.error
    if not done:
        raise StoppedError(
            "", None, f"by a signal, at {progress.finished} of {progress.total} rows; they are kept",
            "the same command resumes",
        )  # fmt: skip


def variant_settings(job: AugmentJob, recipes: Mapping[str, Recipe]) -> dict[str, VariantSettings]:
    """Settings that the rows of one variant have in common, by the variant's name."""
    return {
        each.name: VariantSettings(
            recipes[each.name], each.sampling.model_dump(), job.seed, job.model.id, variant=each.name
        )
        for each in job.variants()
    }


def facts_of(job: AugmentJob, recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """What else decides what the run comes to."""
    facts = {}
    if job.classifier is not None:
        from services.models.classifier import classifier_revision  # transformers comes with it, which takes seconds

        facts["classifier_revision"] = classifier_revision(job.classifier)
    if any(recipe.compares for recipe in recipes.values()):
        from pipelines.inputs.near_duplicates import RULES

        facts["near_duplicates"] = RULES
    return facts


def near_duplicates_of(reader: InputRows, recipe: Recipe) -> dict[int, int]:
    """Returns the number of the first similar row for each near-duplicate row; reads the whole input."""
    from pipelines.inputs.near_duplicates import find_near_duplicates  # scipy comes with it, which takes a second

    _log.info("comparing %d rows with each other", sum(source.rows for source in reader.inputs))
    return find_near_duplicates(reader, recipe)


def _with_emotions(
    reader: InputRows,
    classifier: Classifier,
    run: RunRecord,
    committed: set[int],
    signalled: Callable[[], float | None],
) -> "FittingEmotions":
    from pipelines.augmentation.fitting_emotions import FittingEmotions

    def stop_if_signalled() -> None:
        if signalled() is not None:
            raise StoppedError("", None, "by a signal, while emotions were picked", "the same command resumes")

    left = [(start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    return FittingEmotions(reader, classifier, left, stop_if_signalled)


def _record_engine(store: ShardStore, run: RunRecord, member: Member) -> None:
    """Writes to run.json what came up, and where; refuses a model that changed since the run began."""
    info = member.info
    if run.model_revision and run.model_revision != info.model_revision:
        raise RunError(
            "model.id", run.job["model"]["id"],
            f"it is another model than the run began with: revision {run.model_revision} -> {info.model_revision}",
            "pin model.revision to the first one, or name another output.path",
        )  # fmt: skip
    if info.settings.get("chat_template") is False:
        _log.warning(
            "%s has no chat template: prompts are sent as plain text. That is right for a base model; of a chat model "
            "take a checkpoint whose tokenizer has one", run.job["model"]["id"],
        )  # fmt: skip
    run.model_revision, run.engine = info.model_revision, info.settings
    run.versions = {**run.versions, **info.versions}
    run.replicas.append({"number": member.number, "node": member.node, "cores": member.cores, "pids": info.pids})
    store.write_run(run)


@contextmanager
def _last_metrics_kept(store: ShardStore, lease: Lease, run: RunRecord, metrics: AugmentMetrics) -> Iterator[None]:
    """Writes to run.json how the job ended, unless the run is another driver's by now."""
    try:
        yield
    finally:
        last = metrics.final_entries()
        run.ended_at, run.last_metrics = last["ended_at"], last["last_metrics"]
        # What hinders this has ended the job, and is told; each file system has errors of its own.
        with suppress(Exception):
            lease.check()
            store.write_run(run)


def _summary(store: ShardStore, progress: Progress) -> Summary:
    return Summary(
        run=store.url,
        rows=dict(progress.rows),
        shards=progress.shards,
        output_tokens=progress.output_tokens,
        generated=progress.generated_here,
        serving_seconds=round(progress.serving_seconds, 3),
        tokens_per_second=round(progress.goodput(), 1),
        coordinator_seconds=round(progress.coordinator_seconds, 3),
        writer_seconds=round(progress.writer_seconds, 3),
    )

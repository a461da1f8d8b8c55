"""`kindling augment`: reads a corpus, generates outputs, and commits them as Parquet shards."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.augmentation.budget import RunBudget
from pipelines.augmentation.card import RunCard
from pipelines.augmentation.first_rows import FirstRows, refuse_rows_without_prompts
from pipelines.augmentation.plan import facts_of, near_duplicates_of, new_run, plan_run, variant_settings, work_rows
from pipelines.augmentation.progress import AugmentProgress, Display
from pipelines.augmentation.retries import (
    plan_retry,
    refuse_retries_without_shards,
    rows_to_retry,
    undone_without_engine,
)
from pipelines.augmentation.shared import Shared, serve_run
from pipelines.augmentation.summary import Summary, summary_of
from pipelines.augmentation.target import max_in_flight
from pipelines.inputs.reader import InputReader, InputRows
from pipelines.jobfile import as_job
from pipelines.recipes import all_fields, make_recipes, optional_fields
from pipelines.run_folder import claimed, unwritable, write_errors
from pipelines.stopping import stop_signals
from schemas.augment import AugmentJob
from schemas.errors import RunError, StoppedError
from schemas.job import Classifier
from schemas.rows import ACCEPTED, ERROR, REJECTED, FinishedRows, counts_text
from schemas.run import REPLICA_SECONDS, RunRecord
from schemas.text import plural
from services.cluster import connect_to_ray
from services.observability.endpoint import register_target
from services.observability.series import AugmentMetrics
from services.replicas.coordinator import Coordinator
from services.replicas.kept_replicas import KeptReplicas
from services.replicas.members import Member
from services.replicas.placement import check_model
from services.replicas.replica_pool import ReplicaPool
from services.replicas.row_records import VariantSettings
from services.storage.commit_order import CommitOrder
from services.storage.lease import Lease
from services.storage.shard_index import ShardIndex, read_index, remove_unlisted_siblings
from services.storage.shard_writer import ShardWriter, read_logged_rows
from services.storage.store import ShardStore

if TYPE_CHECKING:
    from pipelines.augmentation.fitting_emotions import FittingEmotions

_log = logging.getLogger("kindling")

_STATES_TO_RETRY = {"rejected": REJECTED, "errors": ERROR}


def augment(
    job: AugmentJob | Mapping[str, Any] | str | Path,
    extend: bool = False,
    retry: Literal["rejected", "errors"] | None = None,
    shared: Shared | None = None,
) -> Summary:
    """Runs or resumes an augmentation job.

    Args:
        job: a job, the same as a dict, or the path of a job file.
        extend: accept an input with rows that were added at its end since the run began.
        retry: generate the rows of a complete run again that were rejected, or that failed; the job may differ from
            the run's.
        shared: engines and endpoint that the run shares with others; by default it has its own.

    Raises:
        JobError: the job or its input is at fault, or none of the first rows has a prompt.
        EngineError: the model cannot be served, or each of the first rows failed in the engine.
        RunError: the run folder holds something else, or cannot be written.
        StoppedError: a signal, or a full disk, ended the job early; finished rows are kept, and the same call resumes.
    """
    job = as_job(job)
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes), optional_fields(recipes))
    store = ShardStore(job.output.path)
    variants = variant_settings(job, recipes)
    # From here on a signal raises no exception: the coordinator polls `stop_within`.
    with claimed(store, "augment") as lease, stop_signals(job.cluster.grace_seconds) as stop_within:
        facts = facts_of(job, recipes)
        before = store.read_run() if retry else None
        if retry:
            new = new_run(job, recipes, reader.inputs, facts)
            # Before the retry's job becomes the run's: one that cannot begin changes nothing.
            check_model(job.model, job.cluster)
            if job.classifier is None:
                refuse_rows_without_prompts(new, reader, variants, ())
            with write_errors(store.url):
                run = plan_retry(store, new, _STATES_TO_RETRY[retry])
        else:
            run = plan_run(store, job, recipes, reader.inputs, extend, **facts)
        metrics = AugmentMetrics(run.name)
        metrics.free_bytes.set_function(store.free_bytes)
        if (price := job.cluster.price_per_replica_hour) is not None:
            metrics.price.set(price)
        with write_errors(store.url, resumable=True), undone_without_engine(store, lease, before, run):
            index = read_index(store, run)
            _set_read_rows(store, run, index, job.target_accepted)
            progress = AugmentProgress(run, metrics)
            # Earlier starts are counted before the endpoint opens: Prometheus takes a counter that falls for a reset.
            refuse_retries_without_shards(store.url, index.committed)
            left = index.left_to_retry(run)
            progress.on_committed_before(index.totals(left, run.retries[-1].state if left else ""))
            for rows in read_logged_rows(store, run, index.committed):
                progress.on_logged_before(rows)
            with serve_run(metrics, job.metrics, shared) as run.metrics:
                index.save_if_due()
                card = RunCard(store, run, index, progress.outcomes)
                card.renew()
                if progress.shards < run.shards or left:
                    with _last_metrics_kept(store, lease, run, metrics):
                        replicas = shared.replicas if shared else None
                        _generate(
                            job, run, reader, store, lease, variants, progress, index, left, card, stop_within, replicas
                        )
                    if index.left_to_retry(run):  # shards that were made again now, after their retry
                        cause = "shards that were made again hold rows whose retry is still to come"
                        raise StoppedError("", None, cause, "the same command generates them")
                else:
                    _log.info("%s is complete: nothing to do", store.url)
                # A driver that died right after the last commit, or that lost its lease, leaves files behind.
                store.remove_logs()
                remove_unlisted_siblings(store, index, run)
                progress.warn_of_failures(min_rows=1)
        return summary_of(store.url, progress)


def _generate(
    job: AugmentJob,
    run: RunRecord,
    reader: InputRows,
    store: ShardStore,
    lease: Lease,
    variants: dict[str, VariantSettings],
    progress: AugmentProgress,
    index: ShardIndex,
    retried: Collection[int],
    card: RunCard,
    stop_within: Callable[[], float | None],
    replicas: KeptReplicas | None,
) -> None:
    budget = RunBudget(job, progress)
    budget.refuse_if_used_up()
    check_model(job.model, job.cluster)
    run.start_id = progress.metrics.start_id
    store.write_run(run)  # `status` finds the endpoint there, also while the engines start, which takes minutes
    if progress.finished:
        _log.info("resuming %s: %s", store.url, counts_text(progress.rows))
    committed = index.committed.difference(retried)
    is_first_start = not progress.finished
    reader, duplicates = _prepared_rows(job, run, reader, variants, committed, is_first_start, stop_within)
    first_rows = FirstRows(variants, is_first_start)
    with (
        connect_to_ray(job.cluster.address) as ray_metrics,
        register_target(ray_metrics, job.metrics, job="ray"),
        Display(progress) as display,
    ):
        writer = ShardWriter(
            store, run, index, lease, progress.on_rows, progress.on_commit, card.renew_if_due, job.target_accepted
        )
        pool = ReplicaPool(job.model, job.engine, job.cluster, variants, kept=replicas)

        # The coordinator calls this several times a second, so the display and the gauges are updated here too.
        def update_and_stop_within() -> float | None:
            if progress.due():
                is_serving = any(member.phase == "serving" for member in pool.members)
                display.update(None if is_serving else pool.start_phase())
                progress.publish(pool)
                progress.warn_of_failures()
                budget.update(pool)
                if progress.is_cost_due():
                    with suppress(Exception):  # a later one is saved, or the writer reports the fault
                        lease.check()
                        run.last_metrics = {**run.last_metrics, REPLICA_SECONDS: progress.replica_seconds}
                        store.write_run(run)
            limits = (stop_within(), budget.stop_within())
            has_ended = writer.error is not None or writer.read_rows is not None or first_rows.have_failed
            return 0.0 if has_ended else min((limit for limit in limits if limit is not None), default=None)

        def take(finished: FinishedRows) -> None:
            budget.on_finished(finished)
            first_rows.on_finished(finished)
            writer.put(finished)

        def on_ready(member: Member) -> None:
            progress.on_serving()
            _record_engine(store, run, member)

        recipes = {name: settings.recipe for name, settings in variants.items()}
        rows = chain(
            first_rows.watch(work_rows(run, reader, recipes, writer, index.committed, duplicates)),
            rows_to_retry(run, reader, recipes, writer, store, retried, duplicates),
        )
        left = progress.total - progress.finished
        coordinator = Coordinator(
            pool,
            variants,
            rows,
            left,
            take,
            update_and_stop_within,
            on_ready,
            max_in_flight=lambda: min(budget.max_in_flight(), max_in_flight(job, run, progress.rows)),
            is_resumable=lambda: writer.read_rows is None,
            looks_ahead=job.target_accepted is None,
        )
        progress.metrics.add_replica_series(coordinator.replicas)
        try:
            done = coordinator.run()
        finally:
            writer.close()
            progress.on_end()
            progress.coordinator_seconds, progress.writer_seconds = coordinator.cpu_seconds, writer.cpu_seconds
            if pool.has_engines_to_stop:
                display.show_stopping()
            pool.stop()
            progress.publish(pool)
            with suppress(Exception):  # an error on its way is the one to report
                lease.check()
                card.renew_if_outdated()
    if writer.error is not None:
        raise unwritable(store.url, writer.error, resumable=True) from writer.error
    lease.check()
    if writer.read_rows is not None:
        done = True
        _end_at_target(store, run, index, progress, writer.read_rows)
    card.renew_if_outdated()
    if not done and first_rows.have_failed:
        raise first_rows.error()
    if not done and budget.is_used_up:
        raise budget.error()
    if not done:
        raise StoppedError(
            "", None, f"by a signal, after {progress.finished} of {progress.total} rows; they are kept",
            "the same command resumes",
        )  # fmt: skip


def _set_read_rows(store: ShardStore, run: RunRecord, index: ShardIndex, target: int | None) -> None:
    """Sets how many input rows belong to the run, by its target and its committed shards; both may have changed."""
    everything = run.model_copy(update={"read_rows": None})
    read_rows = CommitOrder(everything, index, target).read_rows if target is not None else None
    if read_rows != run.read_rows:
        run.read_rows = read_rows
        store.write_run(run)


def _end_at_target(
    store: ShardStore, run: RunRecord, index: ShardIndex, progress: AugmentProgress, read_rows: int
) -> None:
    run.read_rows = read_rows
    store.write_run(run)
    dropped = progress.on_target(index.totals())
    behind = f"; {plural(dropped, 'row')} behind it, finished already, are left out" if dropped else ""
    _log.info("target_accepted is reached: %d rows accepted of %d read%s", progress.rows[ACCEPTED], run.rows, behind)


def _prepared_rows(
    job: AugmentJob,
    run: RunRecord,
    reader: InputRows,
    variants: Mapping[str, VariantSettings],
    committed: set[int],
    is_first_start: bool,
    stop_within: Callable[[], float | None],
) -> tuple[InputRows, dict[int, int]]:
    """Returns the input with emotions, and its near-duplicates; refuses rows of which none has a prompt."""
    # Emotions are picked before any engine starts, so they do not depend on the replica or the start of a row.
    if job.classifier is not None:
        reader = _with_emotions(reader, job.classifier, run, committed, stop_within)
    if is_first_start:  # else a resume would judge a run by the rows that are left
        refuse_rows_without_prompts(run, reader, variants, committed)
    recipe = next(iter(variants.values())).recipe  # inputs are compared, and all variants have the same inputs
    return reader, near_duplicates_of(reader, recipe) if recipe.rejects_near_duplicates else {}


def _with_emotions(
    reader: InputRows,
    classifier: Classifier,
    run: RunRecord,
    committed: set[int],
    stop_within: Callable[[], float | None],
) -> "FittingEmotions":
    from pipelines.augmentation.fitting_emotions import FittingEmotions

    def stop_if_signalled() -> None:
        if stop_within() is not None:
            raise StoppedError("", None, "by a signal, while emotions were picked", "the same command resumes")

    left = [(start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    return FittingEmotions(reader, classifier, left, stop_if_signalled)


def _record_engine(store: ShardStore, run: RunRecord, member: Member) -> None:
    """Writes a started engine to run.json: its versions, node and cores; refuses a model that changed since then.

    Raises:
        RunError: the model has another revision than at the first start of the run.
    """
    info = member.info
    if run.model_revision and run.model_revision != info.model_revision:
        raise RunError(
            "model.id", run.job["model"]["id"],
            f"the model changed since the run began: revision {run.model_revision} -> {info.model_revision}",
            "set model.revision to the first revision, or name another output.path",
        )  # fmt: skip
    if info.settings.get("chat_template") is False:
        _log.warning(
            "%s has no chat template: prompts are sent as plain text. That is right for a base model; for a chat "
            "model, name a checkpoint whose tokenizer has a chat template", run.job["model"]["id"],
        )  # fmt: skip
    run.model_revision, run.engine = info.model_revision, info.settings
    run.versions = {**run.versions, **info.versions}
    run.replicas.append({"number": member.number, "node": member.node, "cores": member.cores, "pids": info.pids})
    store.write_run(run)


@contextmanager
def _last_metrics_kept(store: ShardStore, lease: Lease, run: RunRecord, metrics: AugmentMetrics) -> Iterator[None]:
    """Writes the end of the start and its last metrics to run.json, unless another driver holds the lease by now."""
    try:
        yield
    finally:
        last = metrics.final_entries()
        run.ended_at, run.last_metrics = last["ended_at"], last["last_metrics"]
        # An error here has the same cause as the one that ended the job, which is reported already; every file
        # system raises errors of its own classes.
        with suppress(Exception):
            lease.check()
            store.write_run(run)

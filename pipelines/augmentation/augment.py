"""`kindling augment`: reads a corpus, generates outputs, and commits them as Parquet shards."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pipelines.augmentation.first_rows import refuse_rows_without_prompts
from pipelines.augmentation.plan import facts_of, new_run, plan_run, variant_settings
from pipelines.augmentation.progress import AugmentProgress
from pipelines.augmentation.retries import plan_retry, refuse_retries_without_shards, undone_without_engine
from pipelines.augmentation.shared import Shared, serve_run
from pipelines.augmentation.start import Start
from pipelines.augmentation.summary import Summary, summary_of
from pipelines.inputs.reader import InputReader
from pipelines.jobfile import as_job
from pipelines.publishing.run_card import RunCard
from pipelines.recipes import all_fields, make_recipes, optional_fields
from pipelines.run_folder import claimed, write_errors
from pipelines.stopping import stop_signals
from schemas.augment import AugmentJob
from schemas.errors import StoppedError
from schemas.rows import ERROR, REJECTED
from schemas.run import RunRecord
from services.observability.series import AugmentMetrics
from services.replicas.placement import check_model
from services.storage.commit_order import CommitOrder
from services.storage.lease import Lease
from services.storage.shard_index import ShardIndex, read_index, remove_unlisted_siblings
from services.storage.shard_writer import read_logged_rows
from services.storage.store import ShardStore

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
                        start = Start(job, run, store, lease, variants, progress, index, card, stop_within)
                        start.generate(reader, left, shared.replicas if shared else None)
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


def _set_read_rows(store: ShardStore, run: RunRecord, index: ShardIndex, target: int | None) -> None:
    """Sets how many input rows belong to the run, by its target and its committed shards; both may have changed."""
    everything = run.model_copy(update={"read_rows": None})
    read_rows = CommitOrder(everything, index, target).read_rows if target is not None else None
    if read_rows != run.read_rows:
        run.read_rows = read_rows
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

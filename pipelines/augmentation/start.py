"""One start of a run: engines are started, the rows that are left are generated, and their shards committed.

Invariant: however a start ends, its writer is closed first, so that finished rows are durable, and its engines are
stopped or left to the next run.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from pipelines.augmentation.budget import RunBudget
from pipelines.augmentation.first_rows import FirstRows, refuse_rows_without_prompts
from pipelines.augmentation.plan import near_duplicates_of, work_rows
from pipelines.augmentation.progress import AugmentProgress, Display
from pipelines.augmentation.retries import rows_to_retry
from pipelines.augmentation.target import max_in_flight
from pipelines.inputs.reader import InputRows
from pipelines.publishing.run_card import RunCard
from pipelines.run_folder import unwritable
from schemas.augment import AugmentJob
from schemas.errors import RunError, StoppedError
from schemas.job import Classifier
from schemas.rows import ACCEPTED, FinishedRows, WorkRow, counts_text, engine_seed
from schemas.run import REPLICA_SECONDS, RunRecord
from schemas.text import plural
from services.cluster import connect_to_ray
from services.observability.endpoint import register_target
from services.replicas.coordinator import Coordinator
from services.replicas.kept_replicas import KeptReplicas
from services.replicas.members import Member
from services.replicas.placement import check_model
from services.replicas.replica_pool import ReplicaPool
from services.replicas.row_records import VariantSettings
from services.storage.lease import Lease
from services.storage.shard_index import ShardIndex
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore

if TYPE_CHECKING:
    from pipelines.augmentation.fitting_emotions import FittingEmotions

_log = logging.getLogger("kindling")


class Start:
    """One start of a run.

    Args:
        job: the job.
        run: its run, as planned.
        store: the run folder.
        lease: the right to write there.
        variants: settings of each variant, by its name.
        progress: counts of the run, with those of its earlier starts.
        index: the index of committed shards.
        card: the dataset card.
        stop_within: None until a stop signal came, then the seconds that are left.
    """

    def __init__(
        self,
        job: AugmentJob,
        run: RunRecord,
        store: ShardStore,
        lease: Lease,
        variants: dict[str, VariantSettings],
        progress: AugmentProgress,
        index: ShardIndex,
        card: RunCard,
        stop_within: Callable[[], float | None],
    ) -> None:
        self._job, self._run, self._store, self._lease = job, run, store, lease
        self._variants, self._progress, self._index, self._card = variants, progress, index, card
        self._signal = stop_within
        self._budget = RunBudget(job, progress)
        self._is_first = not progress.finished
        self._first_rows = FirstRows(variants, self._is_first)

    def generate(self, reader: InputRows, retried: Collection[int], replicas: KeptReplicas | None) -> None:
        """Generates the rows that are left.

        Args:
            reader: the input.
            retried: shards of which a retry generates rows again.
            replicas: engines that one run leaves to the next; None starts engines of its own.

        Raises:
            JobError: none of the first rows has a prompt.
            EngineError: the model cannot be served, or each of the first rows failed in the engine.
            RunError: the run folder cannot be written, or the model changed.
            StoppedError: a signal, a full disk or the budget ended the start early.
        """
        self._budget.refuse_if_used_up()
        check_model(self._job.model, self._job.cluster)
        self._run.start_id = self._progress.metrics.start_id
        # `status` finds the endpoint there, also while the engines start, which takes minutes.
        self._store.write_run(self._run)
        if not self._is_first:
            _log.info("resuming %s: %s", self._store.url, counts_text(self._progress.rows))
        reader, duplicates = self._prepared_rows(reader, self._index.committed.difference(retried))
        with (
            connect_to_ray(self._job.cluster.address) as ray_metrics,
            register_target(ray_metrics, self._job.metrics, job="ray"),
            Display(self._progress) as display,
        ):
            # A retry is of rows that were read already: no target ends it.
            target = None if retried else self._job.target_accepted
            writer = ShardWriter(
                self._store, self._run, self._index, self._lease, self._progress.on_rows, self._progress.on_commit,
                self._card.renew_if_due, target,
            )  # fmt: skip
            # A later start, or a retry, has other rows left, and must not draw the numbers of this one again.
            seed = engine_seed(self._job.seed, self._progress.finished, len(self._run.retries))
            pool = ReplicaPool(
                self._job.model, self._job.engine, self._job.cluster, self._variants, kept=replicas,
                seeds=self._job.seeds, seed=seed,
            )  # fmt: skip
            rows = self._rows_left(reader, writer, retried, duplicates)
            is_done = self._run_rows(rows, writer, pool, display)
        self._end(writer, is_done)

    def _run_rows(self, rows: Iterator[WorkRow], writer: ShardWriter, pool: ReplicaPool, display: Display) -> bool:
        """Runs rows through the pool; returns whether all were finished."""
        progress = self._progress

        # The coordinator calls this several times a second, so the display and the gauges are updated here too.
        def update_and_stop_within() -> float | None:
            if progress.due():
                self._update(pool, display)
            limits = (self._signal(), self._budget.stop_within())
            has_ended = writer.error is not None or writer.read_rows is not None or self._first_rows.have_failed
            return 0.0 if has_ended else min((limit for limit in limits if limit is not None), default=None)

        def take(finished: FinishedRows) -> None:
            self._budget.on_finished(finished)
            self._first_rows.on_finished(finished)
            writer.put(finished)

        def on_ready(member: Member) -> None:
            progress.on_serving()
            _record_engine(self._store, self._run, member)

        coordinator = Coordinator(
            pool,
            self._variants,
            rows,
            progress.total - progress.finished,
            take,
            update_and_stop_within,
            on_ready,
            max_in_flight=self._max_in_flight,
            is_resumable=lambda: writer.read_rows is None,
            looks_ahead=self._job.target_accepted is None,
        )
        progress.metrics.add_replica_series(coordinator.replicas)
        try:
            return coordinator.run()
        finally:
            writer.close()
            progress.on_end()
            progress.coordinator_seconds, progress.writer_seconds = coordinator.cpu_seconds, writer.cpu_seconds
            if pool.has_engines_to_stop:
                display.show_stopping()
            pool.stop()
            progress.publish(pool)
            with suppress(Exception):  # an error on its way is the one to report
                self._lease.check()
                self._card.renew_if_outdated()

    def _update(self, pool: ReplicaPool, display: Display) -> None:
        progress = self._progress
        is_serving = any(member.phase == "serving" for member in pool.members)
        display.update(None if is_serving else pool.start_phase())
        progress.publish(pool)
        progress.warn_of_failures()
        self._budget.update(pool)
        if progress.is_cost_due():
            with suppress(Exception):  # a later one is saved, or the writer reports the fault
                self._lease.check()
                self._run.last_metrics = {**self._run.last_metrics, REPLICA_SECONDS: progress.replica_seconds}
                self._store.write_run(self._run)

    def _max_in_flight(self) -> int:
        return min(self._budget.max_in_flight(), max_in_flight(self._job, self._run, self._progress.rows))

    def _rows_left(
        self, reader: InputRows, writer: ShardWriter, retried: Collection[int], duplicates: Mapping[int, int]
    ) -> Iterator[WorkRow]:
        recipes = {name: settings.recipe for name, settings in self._variants.items()}
        rows = work_rows(self._run, reader, recipes, writer, self._index.committed, duplicates)
        again = rows_to_retry(self._run, reader, recipes, writer, self._store, retried, duplicates)
        return chain(self._first_rows.watch(rows), again)

    def _end(self, writer: ShardWriter, is_done: bool) -> None:
        """Raises the error of a start that left rows, once all its finished rows are durable."""
        if writer.error is not None:
            raise unwritable(self._store.url, writer.error, resumable=True) from writer.error
        self._lease.check()
        if writer.read_rows is not None:
            is_done = True
            self._end_at_target(writer.read_rows)
        self._card.renew_if_outdated()
        if is_done:
            return
        if self._first_rows.have_failed:
            raise self._first_rows.error()
        if self._budget.is_used_up:
            raise self._budget.error()
        progress = self._progress
        raise StoppedError(
            "", None, f"by a signal, after {progress.finished} of {progress.total} rows; they are kept",
            "the same command resumes",
        )  # fmt: skip

    def _end_at_target(self, read_rows: int) -> None:
        self._run.read_rows = read_rows
        self._store.write_run(self._run)
        dropped = self._progress.on_target(self._index.totals())
        behind = f"; {plural(dropped, 'row')} behind it, finished already, are left out" if dropped else ""
        accepted = self._progress.rows[ACCEPTED]
        _log.info("target_accepted is reached: %d rows accepted of %d read%s", accepted, self._run.rows, behind)

    def _prepared_rows(self, reader: InputRows, committed: set[int]) -> tuple[InputRows, dict[int, int]]:
        """Returns the input with emotions, and its near-duplicates; refuses rows of which none has a prompt."""
        # Emotions are picked before any engine starts, so they do not depend on the replica or the start of a row.
        if self._job.classifier is not None:
            reader = self._with_emotions(reader, self._job.classifier, committed)
        if self._is_first:  # else a resume would judge a run by the rows that are left
            refuse_rows_without_prompts(self._run, reader, self._variants, committed)
        recipe = next(iter(self._variants.values())).recipe  # inputs are compared, and all variants have the same ones
        return reader, near_duplicates_of(reader, recipe) if recipe.rejects_near_duplicates else {}

    def _with_emotions(self, reader: InputRows, classifier: Classifier, committed: set[int]) -> "FittingEmotions":
        from pipelines.augmentation.fitting_emotions import FittingEmotions

        def stop_if_signalled() -> None:
            if self._signal() is not None:
                raise StoppedError("", None, "by a signal, while emotions were picked", "the same command resumes")

        left = [(start, end) for shard, start, end in self._run.shard_ranges() if shard not in committed]
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

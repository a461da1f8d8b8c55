"""`kindling label`: splits raw text into sentences, and commits those with a clear emotion as Parquet shards."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.inputs.files import input_files
from pipelines.inputs.sources import FileSource
from pipelines.jobfile import as_job
from pipelines.labelling.card import write_card
from pipelines.labelling.contexts import CONTEXT_SCHEMA, ContextManifest, LabelCounts, commit, read_manifest
from pipelines.labelling.progress import LabelProgress
from pipelines.labelling.ranges import LineRange, plan_ranges
from pipelines.labelling.record import LabelRecord, read_record, write_record
from pipelines.labelling.scoring import label_ranges
from pipelines.result import Result, rows_of_run
from pipelines.run_folder import claimed, has_record, refuse_other_job, versions, write_errors
from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint, identity_of
from schemas.job import Input
from schemas.label import LabelJob
from services.cluster import connect_to_ray, watched_head
from services.models.classifier import classifier_revision
from services.storage.lease import Lease
from services.storage.store import ShardStore, shard_path

if TYPE_CHECKING:
    import polars

_log = logging.getLogger("kindling")


@dataclass(frozen=True)
class LabelSummary(Result):
    """Result of a label run.

    Attributes:
        run: the run folder.
        counts: numbers of `shards`, `lines`, scored `sentences`, and of these `kept`, `neutral` (the best label is
            neutral) and `unsure` (the best label has a score below the threshold).
        dropped: number of lines and sentences that were not scored, by rule.
        sources: number of `sentences` scored and `kept`, by raw file.
        emotions: number of kept sentences by label.
    """

    run: str
    counts: dict[str, int]
    dropped: dict[str, int]
    sources: dict[str, dict[str, int]]
    emotions: dict[str, int]

    def to_polars(self) -> "polars.DataFrame":
        """Returns the kept sentences with their emotions, in input order, as a polars data frame."""
        return rows_of_run(self.run, CONTEXT_SCHEMA)


def label(job: LabelJob | Mapping[str, Any] | str | Path) -> LabelSummary:
    """Runs or resumes a label job: committed shards are kept, and the others are made.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        JobError: the job or its input is at fault.
        EngineError: the classifier cannot be loaded.
        RunError: the run folder holds something else, or cannot be written.
        StoppedError: a worker failed, or the disk is full; committed shards are kept, and the same call resumes.
    """
    job = as_job(job, LabelJob)
    files = input_files(Input(path=job.input.path, format="text"), is_prose=True)
    store = ShardStore(job.output.path)
    has_record(store, "label")  # refuses the folder of another job before the input is read, which takes long
    run = _new_run(job, files)
    with claimed(store, "label", resumable=True) as lease, write_errors(store.url, resumable=True):
        run = _resumed(store, run)
        totals = LabelCounts()
        committed = store.committed_shards() & {line_range.shard for line_range in run.ranges}
        for shard in sorted(committed):
            totals.add(_checked(read_manifest(store, shard), run, store))
        write_card(store, run, totals)
        if left := [line_range for line_range in run.ranges if line_range.shard not in committed]:
            _label(store, job, run, left, totals, lease)
        else:
            _log.info("%s is complete: nothing to do", store.url)
        return _summary(store.url, totals)


def _new_run(job: LabelJob, files: list[FileSource]) -> LabelRecord:
    resolved = job.model_dump(mode="json")
    content = {file.name: file.content() for file in files}
    identity = identity_of(resolved, inputs=content, classifier_revision=classifier_revision(job.classifier))
    run = LabelRecord(
        name=job.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=resolved,
        fingerprint=fingerprint(identity),
        identity=identity,
        ranges=plan_ranges(files, job.output.bytes_per_shard),
        versions=versions(),
    )
    if not run.ranges:
        raise JobError("input.path", job.input.path, "the files have no text", "name files that have some")
    return run


def _resumed(store: ShardStore, run: LabelRecord) -> LabelRecord:
    """Returns the record of the run in the folder; where the folder has no shard yet, writes the new record.

    Raises:
        RunError: the folder holds shards of another job.
    """
    old = read_record(store)
    if old is not None and store.committed_shards():
        refuse_other_job(store.url, old.identity, run.identity)
        return old
    write_record(store, run)
    return run


def _checked(manifest: ContextManifest, run: LabelRecord, store: ShardStore) -> ContextManifest:
    """Returns the manifest of a shard of this run.

    Raises:
        RunError: the shard belongs to another run.
    """
    if manifest.fingerprint != run.fingerprint:
        path = store.path(shard_path("data", manifest.shard))
        raise RunError(path, None, "this shard belongs to another run", "move it away; it is then made again")
    return manifest


def _label(
    store: ShardStore, job: LabelJob, run: LabelRecord, left: list[LineRange], totals: LabelCounts, lease: Lease
) -> None:
    progress = LabelProgress(run.name, totals, len(run.ranges))
    with connect_to_ray(job.cluster.address), _interruptible(), progress.shown() as advance:
        for manifest, contexts in label_ranges(left, job, run.fingerprint):
            lease.check()  # another driver may have taken the folder over in the meantime
            commit(store, manifest, contexts)
            totals.add(manifest)
            write_card(store, run, totals)
            advance()
            facts = {
                "event": "shard", "run": run.name, "shard": manifest.shard, "shards": totals.counts["shards"],
                "shards_total": len(run.ranges), "kept": manifest.kept, "sentences": manifest.sentences,
            }  # fmt: skip
            _log.info(
                "shard %d of %d: %d of %d sentences kept", totals.counts["shards"], len(run.ranges), manifest.kept,
                manifest.sentences, extra={"facts": facts},
            )  # fmt: skip


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside the block SIGTERM, and the loss of the cluster's head, end the job as Ctrl-C does.

    Ray would end the process without a word, or with the wrong exit code.

    Raises:
        StoppedError: the head of the cluster was lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with watched_head():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(url: str, totals: LabelCounts) -> LabelSummary:
    return LabelSummary(
        run=url,
        counts=dict(totals.counts),
        dropped=dict(totals.dropped.most_common()),
        sources={
            source: {"sentences": sentences, "kept": totals.kept_of_source[source]}
            for source, sentences in totals.sentences_of_source.items()
        },
        emotions=dict(totals.emotions.most_common()),
    )

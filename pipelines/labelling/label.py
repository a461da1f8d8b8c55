"""`kindling label`: raw text to sentences to contexts with emotions, as committed Parquet shards."""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.inputs.files import input_files
from pipelines.inputs.sources import FileSource
from pipelines.jobfile import as_job
from pipelines.labelling.card import contexts_card
from pipelines.labelling.contexts import ContextManifest, Tally, commit, read_manifest
from pipelines.labelling.progress import LabelProgress
from pipelines.labelling.ranges import LineRange, plan_ranges
from pipelines.labelling.record import LabelRecord, read_record, write_record
from pipelines.labelling.scoring import labelled
from pipelines.run_folder import claimed, has_record, refuse_other_job, versions, write_errors
from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint, identity_of
from schemas.job import Input
from schemas.label import LabelJob
from services.cluster import connect_to_ray
from services.models.classifier import classifier_revision
from services.storage.lease import Lease
from services.storage.store import ShardStore, shard_path

_log = logging.getLogger("kindling")


@dataclass(frozen=True)
class LabelSummary:
    """What a label run came to.

    Attributes:
        counts: shards, lines, sentences scored, kept, neutral (best label), unsure (best label scored too little).
        dropped: lines and sentences that were not scored, by rule.
        sources: sentences scored and kept, by raw file.
        emotions: kept sentences by label.
    """

    run: str
    counts: dict[str, int]
    dropped: dict[str, int]
    sources: dict[str, dict[str, int]]
    emotions: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def label(job: LabelJob | Mapping[str, Any] | str | Path) -> LabelSummary:
    """Runs or resumes a label job: what is committed is kept, and the rest is done.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        KindlingError: the job, its input, its classifier or the run folder is at fault.
    """
    job = as_job(job, LabelJob)
    files = input_files(Input(path=job.input.path, format="text"))
    store = ShardStore(job.output.path)
    has_record(store, "label")  # before the input is read: somebody else's folder is left as it is
    run = _new_run(job, files)
    with claimed(store, "label") as lease, write_errors(store.url, resumable=True):
        run = _resumed(store, run)
        tally, done = Tally(), store.committed_shards() & {each.shard for each in run.ranges}
        for shard in sorted(done):
            tally.add(_own(read_manifest(store, shard), run, store))
        _write_card(store, run, tally)
        if left := [each for each in run.ranges if each.shard not in done]:
            _label(store, job, run, left, tally, lease)
            _write_card(store, run, tally)
        else:
            _log.info("%s is complete: nothing to do", store.url)
        return _summary(store.url, tally)


def _write_card(store: ShardStore, run: LabelRecord, tally: Tally) -> None:
    store.write_text("README.md", contexts_card(run.model_dump(), _summary(store.url, tally).as_json()))


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
        raise JobError("input.path", job.input.path, "there is no text", "name files that hold some")
    return run


def _resumed(store: ShardStore, run: LabelRecord) -> LabelRecord:
    """The run in the folder, where it is the same job's; else the new one, written there.

    Raises:
        RunError: the folder holds shards of another job.
    """
    old = read_record(store)
    if old is not None and store.committed_shards():
        refuse_other_job(store.url, old.identity, run.identity)
        return old
    write_record(store, run)
    return run


def _own(manifest: ContextManifest, run: LabelRecord, store: ShardStore) -> ContextManifest:
    if manifest.fingerprint != run.fingerprint:
        path = store.path(shard_path("data", manifest.shard))
        raise RunError(path, None, "this shard is of another run", "move it away to have it made again")
    return manifest


def _label(
    store: ShardStore, job: LabelJob, run: LabelRecord, left: list[LineRange], tally: Tally, lease: Lease
) -> None:
    progress = LabelProgress(run.name, tally, len(run.ranges))
    with connect_to_ray(job.cluster.address), _interruptible(), progress.shown() as advance:
        for manifest, contexts in labelled(left, job, run.fingerprint):
            lease.check()
            commit(store, manifest, contexts)
            tally.add(manifest)
            advance()
            facts = {
                "event": "shard", "run": run.name, "shard": manifest.shard, "shards": tally.counts["shards"],
                "shards_total": len(run.ranges), "kept": manifest.kept, "sentences": manifest.sentences,
            }  # fmt: skip
            _log.info(
                "shard %d of %d: %d of %d sentences kept", tally.counts["shards"], len(run.ranges), manifest.kept,
                manifest.sentences, extra={"facts": facts},
            )  # fmt: skip


@contextmanager
def _interruptible() -> Iterator[None]:
    """Inside the block SIGTERM ends the job as Ctrl-C does; Ray would end the process, and tell nobody."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(url: str, tally: Tally) -> LabelSummary:
    return LabelSummary(
        run=url,
        counts=dict(tally.counts),
        dropped=dict(tally.dropped.most_common()),
        sources={
            source: {"sentences": sentences, "kept": tally.kept_of_source[source]}
            for source, sentences in tally.sentences_of_source.items()
        },
        emotions=dict(tally.emotions.most_common()),
    )

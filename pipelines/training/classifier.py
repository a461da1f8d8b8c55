"""Job that trains an emotion classifier: its folder, record and card."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.publishing.model_card import classifier_card
from pipelines.run_folder import has_record, refuse_lost_path, refuse_other_job, versions, write_errors
from pipelines.training.folder import RECORD_NAME
from pipelines.training.labelled_texts import content_of, read_splits
from schemas.errors import RunError
from schemas.fingerprint import fingerprint, identity_of
from schemas.train import ClassifierStage, TrainJob
from services.models.checkpoints import locate
from services.models.embedded import encoder_version
from services.observability.endpoint import serve_metrics
from services.observability.series import TrainMetrics
from services.storage.filesystem import atomic_folder, sync_files, sync_folder
from services.storage.store import ShardStore
from trainers.emotion_classifier import ClassifierReport, DatasetSplits, train_classifier
from trainers.progress import StageProgress

_log = logging.getLogger("kindling")


def train_classifier_job(job: TrainJob, stage: ClassifierStage) -> ClassifierReport:
    """Trains the classifier that a job asks for, unless its folder holds it already.

    The output folder appears once it is complete: a job that is killed leaves none, and starts from the beginning.

    Args:
        job: the job.
        stage: its only stage.

    Raises:
        KindlingError: the job, its data or its model has a fault, or the folder holds something else.
    """
    store = ShardStore(job.output.path)
    refuse_lost_path(store.url, store.fs)
    stages = {str(number): stage.model_dump() for number, stage in enumerate(job.stages)}
    revision = _encoder_revision(job, stage)
    identity = identity_of({**job.model_dump(), "stages": stages}, data=content_of(stage.data), encoder=revision)
    if report := _finished_report(store, identity):
        _log.info("%s is complete: nothing to do", job.output.path)
        return report
    data = read_splits(stage.data)
    with write_errors(store.url), atomic_folder(store.fs, store.root) as scratch:
        return _train(job, stage, data, identity, Path(scratch))


def _encoder_revision(job: TrainJob, stage: ClassifierStage) -> str | None:
    """Commit or version of the encoder that the head reads; None where it reads words."""
    if stage.encoder == "words":
        return None
    return encoder_version() if job.model.id == "embedded" else locate(job.model)[1]


def _train(
    job: TrainJob, stage: ClassifierStage, data: DatasetSplits, identity: dict[str, Any], folder: Path
) -> ClassifierReport:
    """Trains the classifier, and writes it with its record and card to a folder."""
    name, metrics = "0-classifier", TrainMetrics(job.name)
    with serve_metrics(metrics, job.metrics):
        progress = StageProgress(name, metrics, folder / "tensorboard" / name)
        report = train_classifier(stage, job.model, data, job.seed, folder, progress)
    record = {
        "name": job.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": job.model_dump(),
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "versions": versions(),
        "report": report.as_json(),
        **metrics.final_entries(),
    }
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
    (folder / "README.md").write_text(classifier_card(record))
    sync_files(folder)
    sync_folder(str(folder))
    return report


def _finished_report(store: ShardStore, identity: dict[str, Any]) -> ClassifierReport | None:
    """Returns the report of the same job where the folder holds its classifier already; None where the folder is new.

    Raises:
        RunError: the folder holds something else, or its record cannot be read.
    """
    if not has_record(store, "train", must_be_bare=True):
        return None
    path = store.path(RECORD_NAME)
    try:
        record = json.loads(store.fs.cat_file(path))
        old, report = record["identity"], ClassifierReport(**record["report"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            path, None, "it is not a record of a classifier's training", "name another output.path"
        ) from None
    refuse_other_job(store.url, old, identity, "name another output.path, or remove the folder")
    return report

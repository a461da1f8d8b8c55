"""Trains an emotion classifier: its folder, record and card."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.publishing.model_card import classifier_card
from pipelines.run_folder import refuse_lost_path, versions
from pipelines.training.folder import RECORD_NAME, unwritable
from pipelines.training.labelled_texts import content_of, read_splits
from schemas.errors import RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.train import ClassifierStage, TrainJob
from services.models.checkpoints import locate
from services.models.embedded import encoder_version
from services.observability.endpoint import serve_metrics
from services.observability.series import TrainMetrics
from services.storage.filesystem import atomic_folder, sync_files, sync_folder
from trainers.emotion_classifier import ClassifierReport, DatasetSplits, train_classifier
from trainers.progress import StageProgress

_log = logging.getLogger("kindling")


def train_classifier_job(job: TrainJob) -> ClassifierReport:
    """Trains the classifier that a job asks for; the output folder is there as soon as it is whole.

    Raises:
        KindlingError: the job, its data or its model is at fault, or the folder holds something else.
    """
    (stage,) = job.stages
    refuse_lost_path(job.output.path, LocalFileSystem())
    folder = Path(job.output.path).expanduser().absolute()
    stages = {str(number): stage.model_dump() for number, stage in enumerate(job.stages)}
    revision = encoder_version() if job.model.id == "embedded" else locate(job.model)[1]
    identity = identity_of({**job.model_dump(), "stages": stages}, data=content_of(stage.data), encoder=revision)
    if report := _there(folder, identity):
        _log.info("%s is complete: nothing to do", job.output.path)
        return report
    data = read_splits(stage.data)
    try:
        with atomic_folder(LocalFileSystem(), str(folder)) as scratch:
            report = _trained(job, stage, data, identity, Path(scratch))
    except OSError as error:
        raise unwritable(folder, error) from None
    return report


def _trained(
    job: TrainJob, stage: ClassifierStage, data: DatasetSplits, identity: dict[str, Any], folder: Path
) -> ClassifierReport:
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


def _there(folder: Path, identity: dict[str, Any]) -> ClassifierReport | None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        record = json.loads((folder / RECORD_NAME).read_text())
        old, report = record["identity"], ClassifierReport(**record["report"])
    except (OSError, ValueError, KeyError, TypeError):
        cause = f"the folder is not empty and holds no {RECORD_NAME}"
        raise RunError("output.path", str(folder), cause, "name a folder of its own") from None
    if changed := difference(old, identity):
        cause = "the folder holds what another job trained:" + "".join(f"\n    {change}" for change in changed)
        raise RunError("output.path", str(folder), cause, "name another output.path, or remove the folder")
    return report

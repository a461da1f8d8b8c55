"""Trains an emotion classifier: its folder, record and card."""

import json
import logging
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.labelled_texts import content_of, read_splits
from pipelines.model_card import classifier_card
from pipelines.plan import refuse_lost_path, versions
from schemas.errors import RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.train import TrainJob
from services.embedded import encoder_version
from services.filesystem import sync_folder
from services.models import locate
from trainers.emotion_classifier import ClassifierReport, train_classifier

_log = logging.getLogger("kindling")

RECORD_NAME = "train.json"


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
    scratch = _scratch(folder)
    try:
        report = train_classifier(stage, job.model, data, job.seed, scratch)
        record = {
            "name": job.name,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "job": job.model_dump(),
            "fingerprint": fingerprint(identity),
            "identity": identity,
            "versions": versions(),
            "report": report.as_json(),
        }
        (scratch / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
        (scratch / "README.md").write_text(classifier_card(record))
        _put(scratch, folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def _scratch(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> RunError:
    cause = f"cannot be written: {error.strerror or error}"
    return RunError("output.path", str(folder), cause, "make room, or name a folder that you may write to")


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


def _put(scratch: Path, folder: Path) -> None:
    """Gives a whole folder its name."""
    for path in scratch.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(str(scratch))
    scratch.chmod(0o755)
    os.rename(scratch, folder)
    sync_folder(str(folder.parent))

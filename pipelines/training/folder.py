"""Run folder of a language model's training: its record, log and final model.

train.json     the record: job as resolved, fingerprint, versions, reports of finished stages, address of the metrics
README.md      the model card
train.lock     held by the one process that trains here (see run_folder.claimed)
train.log      log lines of the training, all its starts one after another
stages/0-clm/  the model after each stage, as a checkpoint with its tokenizer
tensorboard/   loss curves of each stage
work/          token ids and checkpoints of the stage that is being trained
*              the last stage's model, so that the folder itself is a checkpoint
"""

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.publishing.card_header import model_name
from pipelines.publishing.model_card import language_model_card
from pipelines.run_folder import RECORD_NAMES, has_record, open_run, refuse_other_job, versions
from schemas.errors import KindlingError, RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.train import SftStage, TrainJob
from services.storage.filesystem import sync_files, sync_folder, write_atomic
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")

RECORD_NAME = RECORD_NAMES["train"]
LOG_NAME = "train.log"
_FS = LocalFileSystem()


def new_record(job: TrainJob, contents: dict[str, dict[str, Any]], revision: str, precision: str) -> dict[str, Any]:
    """Returns the record of a training that has not begun.

    Args:
        job: the job.
        contents: number of a stage -> what identifies the content of its data.
        revision: revision of the model that the training starts from.
        precision: precision of the arithmetic on this machine. Another machine that resumes the training uses it too.
    """
    resolved = job.model_dump(mode="json")
    for stage in resolved["stages"]:
        for part in [*stage["parts"].values(), *stage.get("replay", {}).values()]:
            if part["input"]:
                del part["input"]["storage_options"]  # they may hold a secret
    stages = {str(number): stage for number, stage in enumerate(resolved["stages"])}
    identity = identity_of({**resolved, "stages": stages}, content=contents, revision=revision)
    return {
        "format": 1,
        "name": job.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": resolved,
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "versions": versions("accelerate", "datasets", "peft", "trl"),
        "precision": precision,
        "teachers": _teachers(job),
        "metrics": "",
        "start_id": "",
        "stages": [],
    }


def _teachers(job: TrainJob) -> dict[str, str]:
    """Returns the model that wrote each run that the job trains on, with its commit or content hash, for the card."""
    parts = [
        part
        for stage in job.language_stages()
        for part in [*stage.parts.values(), *(stage.replay.values() if isinstance(stage, SftStage) else ())]
    ]
    teachers = {}
    for run in {part.run for part in parts if part.run is not None}:
        record = open_run(ShardStore(run))
        teacher = model_name(record.job["model"]["id"], record.model_revision)
        teachers[run] = f"{teacher} (revision {record.model_revision or 'unknown'})"
    return teachers


def resume_record(store: ShardStore, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of the training in a folder: of an earlier start of the same job, or else the new one.

    A resumed job may differ from its earlier start in stages that were not begun. It keeps the finished ones.

    Args:
        store: run folder, claimed by this process.
        record: record of a training that has not begun.

    Raises:
        RunError: the folder holds the training of another job, or its record cannot be read.
    """
    folder = Path(store.root)
    if not has_record(store, "train"):
        write_record(folder, record)
        return record
    path = folder / RECORD_NAME
    try:
        old = json.loads(path.read_text())
        changes = difference(old["identity"], record["identity"])
        finished = len(old["stages"])
    except (ValueError, KeyError, TypeError):
        raise RunError(str(path), None, "it is not a record of a training", "name another output.path") from None
    # A stage is begun once it has a checkpoint. Before that its examples may be made anew, from other data.
    begun = finished + any(folder.glob("work/*/checkpoint-*"))
    if changes and (not begun or all(_is_about_stage_from(begun, change) for change in changes)):
        for stage_folder in (*folder.glob("work/*"), *folder.glob("tensorboard/[0-9]*-*")):
            if int(stage_folder.name.partition("-")[0]) >= begun:  # examples and curves of the earlier data
                shutil.rmtree(stage_folder)
        record = {**record, "stages": old["stages"]}
        write_record(folder, record)
        return record
    refuse_other_job(store.url, old["identity"], record["identity"], "name another output.path, or remove the folder")
    if finished == len(record["job"]["stages"]):
        _log.info("%s is complete: nothing to do", folder)
    return old


def _is_about_stage_from(first: int, change: str) -> bool:
    """Returns whether a change of the identity concerns a stage with this number or a later one.

    Args:
        first: number of the stage.
        change: line of `schemas.fingerprint.difference`, which begins with the key: `stages.1.max_length: ...`.
    """
    section, _, rest = change.partition(".")
    number = rest.partition(".")[0]
    return section in ("stages", "content") and number.isdecimal() and int(number) >= first


def finish(folder: Path, record: dict[str, Any]) -> None:
    """Puts the last stage's model and the model card at the top of the run folder.

    Weights are hard links to those of the stage where the file system has links, and take no space. Other files are
    copies, because people edit them, and an edit would change the stage's file too.
    """
    shutil.rmtree(folder / "work", ignore_errors=True)
    for path in (folder / record["stages"][-1]["folder"]).iterdir():
        if _is_same_file(path, folder / path.name):
            continue
        scratch = folder / f".{path.name}.tmp"
        scratch.unlink(missing_ok=True)
        try:
            (os.link if path.suffix == ".safetensors" else shutil.copy2)(path, scratch)
        except OSError:
            shutil.copy2(path, scratch)
        os.rename(scratch, folder / path.name)
    sync_files(folder)
    sync_folder(str(folder))
    write_atomic(_FS, str(folder / "README.md"), language_model_card(record).encode())


def _is_same_file(path: Path, other: Path) -> bool:
    """Returns whether a file is a link to another one, or an unchanged copy, by size and time of change."""
    if not other.exists():
        return False
    one, two = path.stat(), other.stat()
    return (one.st_size, one.st_mtime_ns) == (two.st_size, two.st_mtime_ns)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes train.json atomically."""
    write_atomic(_FS, str(folder / RECORD_NAME), f"{json.dumps(record, indent=2)}\n".encode())


@contextlib.contextmanager
def log_to_folder(folder: Path) -> Iterator[None]:
    """Inside the block, log lines go to the folder's train.log too, and so does an error that ends the block."""
    handler = _LogFile(folder / LOG_NAME, encoding="utf-8", delay=True)  # no file before the first line
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root, level = logging.getLogger(), _log.level
    root.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        # An error with a remedy needs no traceback.
        traceback = None if isinstance(error, KindlingError) else sys.exc_info()
        message = f"ended: {str(error) or type(error).__name__}"
        handler.emit(logging.makeLogRecord({"msg": message, "exc_info": traceback}))
        raise
    finally:
        root.removeHandler(handler)
        _log.setLevel(level)
        handler.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Does nothing: on a full disk a checkpoint cannot be saved either, and that error is reported."""

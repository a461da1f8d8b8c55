"""The folder of a language model's training: whose it is, who writes there, and what it says of itself.

train.json     the job as resolved, its fingerprint, versions, the stages that are done, and where its metrics were
README.md      the model card
train.log      what the training said, all its starts one after another
stages/0-clm/  the model after each stage, as a checkpoint with its tokenizer
tensorboard/   the loss curves of each stage
work/          of the stage that is being trained: token ids, and checkpoints to go on from
*              the last stage's model, so that the folder is a checkpoint
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

from pipelines.publishing.model_card import language_model_card
from pipelines.run_folder import RECORD_NAMES, has_record, refuse_other_job, versions
from schemas.errors import KindlingError, RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.train import TrainJob
from services.storage.filesystem import sync_files, sync_folder, write_atomic
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")

RECORD_NAME = RECORD_NAMES["train"]
LOG_NAME = "train.log"
_FS = LocalFileSystem()


def record_of(job: TrainJob, contents: dict[str, dict[str, Any]], revision: str, precision: str) -> dict[str, Any]:
    """The record of a training that has not begun.

    Args:
        contents: what identifies the parts of each stage, by its number.
        revision: of the model that it starts from.
        precision: that it computes in on this machine; another one that goes on with it does so too.
    """
    resolved = job.model_dump(mode="json")
    for stage in resolved["stages"]:
        for part in [*stage["parts"].values(), *stage.get("replay", {}).values()]:
            if part["input"]:
                del part["input"]["storage_options"]  # what reaches a file system may be a secret
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
    """Who wrote each run: its model, and the commit or content hash of that."""
    parts = [part for stage in job.stages for part in [*stage.parts.values(), *getattr(stage, "replay", {}).values()]]
    found = {}
    for run in {part.run for part in parts if part.run is not None}:
        record = ShardStore(run).read_run()
        found[run] = f"{record.job['model']['id']} (revision {record.model_revision or 'unknown'})"
    return found


def begun(store: ShardStore, record: dict[str, Any]) -> dict[str, Any]:
    """The record of the training in a folder: the new one, or that of an earlier start of the same job.

    A job may differ from the earlier start in stages that were not begun: models of the stages before them are kept.

    Args:
        store: the folder, claimed by this process.
        record: the record of a training that has not begun.

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
        done = len(old["stages"])
    except (ValueError, KeyError, TypeError):
        raise RunError(str(path), None, "it is no record of a training", "name another output.path") from None
    started = done + any(folder.glob("work/*/checkpoint-*"))
    if changes and (not started or all(_concerns_stage_from(started, change) for change in changes)):
        for left in (*folder.glob("work/*"), *folder.glob("tensorboard/[0-9]*-*")):
            if int(left.name.partition("-")[0]) >= started:  # of a stage that was not begun: its job was at fault
                shutil.rmtree(left)
        record = {**record, "stages": old["stages"]}
        write_record(folder, record)
        return record
    refuse_other_job(store.url, old["identity"], record["identity"], "name another output.path, or remove the folder")
    if done == len(record["job"]["stages"]):
        _log.info("%s is complete: nothing to do", folder)
    return old


def _concerns_stage_from(first: int, change: str) -> bool:
    section, _, rest = change.partition(".")
    number = rest.partition(".")[0]
    return section in ("stages", "content") and number.isdecimal() and int(number) >= first


def finish(folder: Path, record: dict[str, Any]) -> None:
    """The last stage's model and the card at the top of the folder; its weights as a link, where there are such."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    for path in (folder / record["stages"][-1]["folder"]).iterdir():
        if _same(path, folder / path.name):
            continue
        scratch = folder / f".{path.name}.tmp"
        scratch.unlink(missing_ok=True)
        try:  # what people edit is no link: it would change the stage's, too
            (os.link if path.suffix == ".safetensors" else shutil.copy2)(path, scratch)
        except OSError:
            shutil.copy2(path, scratch)
        os.rename(scratch, folder / path.name)
    sync_files(folder)
    sync_folder(str(folder))
    write_atomic(_FS, str(folder / "README.md"), language_model_card(record).encode())


def _same(path: Path, other: Path) -> bool:
    if not other.exists():
        return False
    one, two = path.stat(), other.stat()
    return (one.st_size, one.st_mtime_ns) == (two.st_size, two.st_mtime_ns)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes train.json, atomically."""
    write_atomic(_FS, str(folder / RECORD_NAME), f"{json.dumps(record, indent=2)}\n".encode())


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Inside the block what is logged goes to the folder's train.log too, and so does what ends it before its end."""
    handler = _LogFile(folder / LOG_NAME, encoding="utf-8", delay=True)  # where nothing is said there is no file
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    root, level = logging.getLogger(), _log.level
    root.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        # What has a remedy needs no traceback.
        fault = None if isinstance(error, KindlingError) else sys.exc_info()
        handler.emit(logging.makeLogRecord({"msg": f"ended: {str(error) or type(error).__name__}", "exc_info": fault}))
        raise
    finally:
        root.removeHandler(handler)
        _log.setLevel(level)
        handler.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: a full disk is told by what cannot be saved there."""

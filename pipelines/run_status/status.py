"""`kindling status`: progress of a run, from its files, and from its endpoint while its job runs."""

from pkgutil import resolve_name

from pipelines.run_folder import kind_of, lock_name
from pipelines.run_status.page import Status
from schemas.errors import RunError
from services.storage.lease import read_lease
from services.storage.store import ShardStore

# Imported when a run of that kind is read, so that a page of one kind does not wait for the others.
STATUSES = {
    "augment": "pipelines.run_status.augment:augment_status",
    "label": "pipelines.run_status.label:label_status",
    "train": "pipelines.run_status.train:train_status",
    "evaluate": "pipelines.run_status.evaluate:evaluate_status",
    "reproduce": "pipelines.run_status.study:study_status",
}
"""module and function that read the status of a run folder, by the kind of job (see `run_folder.RECORD_NAMES`)"""


def status(url: str) -> Status:
    """Progress of a run of any kind; nothing is written.

    Raises:
        RunError: the folder holds no run, its record cannot be read, or a shard is damaged.
    """
    store = ShardStore(url)
    kind = kind_of(store) or "augment"  # whose reader says that nothing is there
    if kind not in STATUSES:
        cause = "this folder is a composed corpus, which appears as a whole, and no run"
        raise RunError("RUN", url, cause, "see its README.md")
    return status_of_kind(store, kind)


def status_of_run(store: ShardStore, kind: str) -> Status | None:
    """Progress of a run of this kind; None where the folder holds none, or a corpus, which appears as a whole.

    Raises:
        RunError: see `status`.
    """
    return status_of_kind(store, kind) if kind in STATUSES and kind_of(store) == kind else None


def status_of_kind(store: ShardStore, kind: str) -> Status:
    """Progress of a run whose kind is known: one of STATUSES.

    Raises:
        RunError: see `status`.
    """
    # Before the files: those of a job that ends meanwhile are complete.
    driver = read_lease(store, lock_name(kind))
    # A lock may not be seen from here, as on some network file systems; an end that was written is certain.
    may_run = driver.is_running is not False or not driver.ended
    current: Status = resolve_name(STATUSES[kind])(store, may_run)
    return current.after(driver)

"""`kindling runs`: the runs below a folder, the state of each, and how to go on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.run_folder import kind_of
from pipelines.run_status.page import State, Status
from pipelines.run_status.status import status_of_kind
from schemas.errors import KindlingError, RunError
from services.storage.filesystem import resolve
from services.storage.store import ShardStore

_DEFAULT_FOLDER = "runs"
# Runs lie in `runs/NAME`; a study or an export may put a level or two between.
_MAX_NESTING = 4


@dataclass(frozen=True)
class ListedRun:
    """A run below the folder.

    Attributes:
        run: the run folder.
        kind: kind of its job: the name of the verb.
        state: `Status.state`; `complete` for a composed corpus, and `unreadable` where the run cannot be read.
        status: its status; None for a composed corpus and where it cannot be read.
        error: why it cannot be read; empty where it can.
    """

    run: str
    kind: str
    state: State | Literal["unreadable"]
    status: Status | None = None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        status = self.status.as_json() if self.status else None
        return {"run": self.run, "kind": self.kind, "state": self.state, "error": self.error, "status": status}

    def lines(self) -> list[str]:
        """The status in one line, and lines about how to go on."""
        if self.status is not None:
            return [self.status.line(), *self.status.remedy_lines()]
        return ["a composed corpus, complete" if self.state == "complete" else f"cannot be read: {self.error}"]


def runs(folder: str = _DEFAULT_FOLDER) -> list[ListedRun]:
    """Finds the runs below a folder, or the run that the folder is, at most four levels down.

    Args:
        folder: a local path, or a URL of any fsspec file system. Where `runs` is missing, there is no run yet.

    Raises:
        RunError: there is no such folder, or it cannot be read.
    """
    fs, root = resolve(folder, "FOLDER")
    if folder == _DEFAULT_FOLDER and not fs.exists(root):
        return []
    if not fs.isdir(root):
        raise RunError("FOLDER", folder, "no such folder", "name the folder that holds your runs: kindling runs FOLDER")
    return list(_runs_below(folder.rstrip("/") or folder, _MAX_NESTING))


def _runs_below(folder: str, nesting: int) -> Iterator[ListedRun]:
    store = ShardStore(folder)
    if kind := kind_of(store):
        yield _listed(store, kind)
    elif nesting:
        for name in store.list_names(""):
            if name and not name.startswith(".") and store.fs.isdir(store.path(name)):
                yield from _runs_below(f"{folder}/{name}", nesting - 1)


def _listed(store: ShardStore, kind: str) -> ListedRun:
    folder = store.url
    if kind == "compose":
        return ListedRun(folder, kind, "complete")
    try:
        current = status_of_kind(store, kind)
    except KindlingError as error:  # one damaged run hides no other
        return ListedRun(folder, kind, "unreadable", error=error.cause)
    return ListedRun(folder, kind, current.state, current)

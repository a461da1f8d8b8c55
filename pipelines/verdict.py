"""Result of `kindling verify`: the faults of a run, and what of it is unfinished, which is no damage."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pipelines.result import Result
from schemas.errors import UnreadableError
from schemas.row_programs import TRIES_FOLDER
from schemas.rows import FOLDER_OF_STATE
from services.storage.lease import LastDriver
from services.storage.store import ShardStore, shard_path


@dataclass(frozen=True)
class Fault:
    """A fault of one file of the run.

    Attributes:
        path: the file, relative to the run folder.
        cause: description of the fault.
        damages: number of the part that must be made again because of it; None where no shard needs a repair.
        is_unfinished: nothing is damaged: the shard is not committed yet.
    """

    path: str
    cause: str
    damages: int | None = None
    is_unfinished: bool = False


@dataclass
class Verdict(Result):
    """Result of `verify`. The run is complete and undamaged if and only if `faults` is empty.

    Attributes:
        shards: number of committed shards.
        rows: number of rows by state.
        faults: the faults, one for each shard that is not committed yet among them.
        unfinished: how much is not committed yet, and how to go on; empty where nothing is left.
        not_read: how many rows lie behind the target of the job; empty where all are part of the run.
        strays: files that no shard lists.
        leftovers: files that a stopped start left half written, or of a shard that it did not commit: no fault, since
            no reader sees them, and the job's next start removes them.
        set_aside: folder, relative to the run, to which `--repair` moved files; empty where it moved none.
        moved: the files that `--repair` moved.
    """

    run: str
    shards: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    unfinished: str = ""
    not_read: str = ""
    strays: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    set_aside: str = ""
    moved: list[str] = field(default_factory=list)

    @property
    def damage(self) -> list[Fault]:
        """Returns the faults, without those of shards that are only unfinished."""
        return [fault for fault in self.faults if not fault.is_unfinished]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {**asdict(self), "rows": dict(self.rows)}

    def add_strays(self, store: ShardStore, expected: set[str]) -> None:
        """Adds the files that no shard lists.

        Args:
            expected: files that the shards list.
        """
        for path in sorted(parquet_files(store) - expected):
            self.strays.append(path)
            self.faults.append(Fault(path, "no shard of this run lists this file"))

    def after(self, driver: LastDriver) -> Self:
        """Adds to what is unfinished how to go on, by the last driver; of one that runs nothing is left over."""
        if driver.is_running:
            self.leftovers.clear()
        if self.unfinished:
            again = f"to go on: {driver.command}" if driver.command else "run its job again: it goes on"
            self.unfinished += f"; {'its job runs' if driver.is_running else again}"
        return self


def read_failure(shard: int, error: UnreadableError | OSError) -> Fault:
    """A fault that damages no shard: the file system failed, and a repair would move a shard that may be good."""
    cause = error.cause if isinstance(error, UnreadableError) else f"cannot be read: {error.strerror or error}"
    return Fault(shard_path("data", shard), cause)


def parquet_files(store: ShardStore) -> set[str]:
    """Returns the Parquet files of a run, relative to its folder."""
    files: set[str] = set()
    for folder in (*FOLDER_OF_STATE.values(), TRIES_FOLDER):
        if store.fs.exists(store.path(folder)):
            names = (path.rsplit("/", 1)[-1] for path in store.fs.ls(store.path(folder), detail=False))
            files.update(f"{folder}/{name}" for name in names if name.endswith(".parquet"))
    return files

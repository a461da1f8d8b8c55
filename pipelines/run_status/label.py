"""Status of a `label` run."""

from dataclasses import dataclass
from datetime import datetime

from pipelines.labelling.record import read_record
from pipelines.run_status.page import Status, progress_bar
from schemas.errors import RunError
from schemas.text import shorten
from services.storage.store import ShardStore


@dataclass(frozen=True, kw_only=True)
class LabelStatus(Status):
    """Progress of a `label` run, whose shards are ranges of raw text."""

    kind: str = "label"
    shards: int
    shards_total: int

    def line(self) -> str:
        """Number of shards, and state."""
        return f"{shorten(self.name)}: {self.shards} of {self.shards_total} shards, {self.state_text()}"

    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Number of shards, and a bar."""
        return [self.line(), progress_bar(self.shards, self.shards_total, width)], []


def label_status(store: ShardStore, may_run: bool) -> LabelStatus:
    """Status of a `label` run, from its files.

    Args:
        may_run: is not needed: a `label` run has no endpoint that could be asked.

    Raises:
        RunError: its run.json cannot be read.
    """
    record = read_record(store)
    if record is None:
        raise RunError(store.path("run.json"), None, "it is no record of a label run", "name the output.path of one")
    done = len(store.committed_shards() & {part.shard for part in record.ranges})
    total = len(record.ranges)
    return LabelStatus(run=store.url, name=record.name, complete=done == total, shards=done, shards_total=total)

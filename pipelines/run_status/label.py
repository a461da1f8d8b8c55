"""Status of a `label` run."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.labelling.record import LabelRecord
from services.storage.store import ShardStore


@dataclass(frozen=True)
class LabelStatus:
    """How far a labelling is: its shards are ranges of raw text."""

    run: str
    name: str
    complete: bool
    shards: int
    shards_total: int
    kind: str = "label"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def label_status(store: ShardStore, run: LabelRecord) -> LabelStatus:
    """That of a label run."""
    done = len(store.committed_shards() & {each.shard for each in run.ranges})
    return LabelStatus(store.url, run.name, done == len(run.ranges), done, len(run.ranges))

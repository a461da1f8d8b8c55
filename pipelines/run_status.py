"""`kindling status`: how far a run is, from disk alone, also while it runs."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.verification import open_run
from services.row_log import RowLog
from services.shard_index import read_index
from services.store import ShardStore


@dataclass(frozen=True)
class RunStatus:
    """State of a run on disk.

    Attributes:
        rows: rows by state, those in the log of open shards included.
        variants: names of the sweep's combinations, by each of which every input row is a row; none without a sweep.
        logged: rows of shards that are still open.
        active_seconds: time in which some shard was being generated; pauses between starts do not count.
        goodput_tokens_per_second: output tokens of accepted rows over that time; None before the first shard.
        eta_seconds: at that rate; None before the first shard.
    """

    run: str
    name: str
    complete: bool
    rows: dict[str, int]
    rows_total: int
    variants: list[str]
    logged: int
    shards: int
    shards_total: int
    output_tokens: int
    rejects: dict[str, int]
    active_seconds: float
    goodput_tokens_per_second: float | None
    eta_seconds: float | None
    metrics: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def status(url: str) -> RunStatus:
    """Reads run.json, the index of committed shards, the manifests of those not in it, and the log of open ones.

    Raises:
        RunError: the folder holds no run, or a shard is damaged.
    """
    store = ShardStore(url)
    run = open_run(store)
    index = read_index(store, run)
    shards = index.totals()
    rows = Counter(shards.counts)
    committed = sum(rows.values())
    logged = _logged(store, index.committed)
    rows.update(logged)
    total = run.outputs
    active = shards.active_seconds
    finished = sum(rows.values())
    return RunStatus(
        run=url,
        name=run.name,
        complete=committed == total,
        rows=dict(rows),
        rows_total=total,
        variants=[variant.name for variant in run.variants],
        logged=sum(logged.values()),
        shards=shards.shards,
        shards_total=run.shards,
        output_tokens=shards.output_tokens,
        rejects=shards.rejects,
        active_seconds=round(active, 1),
        goodput_tokens_per_second=round(shards.accepted_output_tokens / active, 1) if active else None,
        eta_seconds=round((total - finished) * active / committed, 1) if committed and active else None,
        metrics=run.metrics,
    )


def _logged(store: ShardStore, committed: set[int]) -> Counter[str]:
    """Rows in the logs; a crash right after a commit can leave the log of a shard that is committed."""
    log = RowLog(store)
    states: Counter[str] = Counter()
    for shard in set(log.shards()) - committed:
        states.update(log.recover(shard)["state"].to_pylist())
    return states

"""`kindling status`: how far a run is, from disk alone, also while it runs."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from pipelines.verification import open_run
from schemas.rows import REJECTED
from schemas.run import Manifest
from services.row_log import RowLog
from services.store import ShardStore


@dataclass(frozen=True)
class RunStatus:
    """State of a run on disk.

    Attributes:
        rows: rows by state, those in the log of open shards included.
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
    """Reads run.json, the manifests of committed shards, and the log of open ones.

    Raises:
        RunError: the folder holds no run, or a shard is damaged.
    """
    store = ShardStore(url)
    run = open_run(store)
    manifests = [store.manifest(shard) for shard in sorted(store.committed())]
    rows: Counter[str] = Counter()
    for manifest in manifests:
        rows.update(manifest.counts)
    committed = sum(rows.values())
    done = {manifest.shard for manifest in manifests}
    logged = _logged(store, done) if store.can_append else Counter()
    rows.update(logged)
    total = run.rows * run.samples
    active = _active_seconds(manifests)
    accepted_tokens = sum(manifest.accepted_output_tokens for manifest in manifests)
    finished = sum(rows.values())
    return RunStatus(
        run=url,
        name=run.name,
        complete=committed == total,
        rows=dict(rows),
        rows_total=total,
        logged=sum(logged.values()),
        shards=len(manifests),
        shards_total=sum(1 for _ in run.shard_ranges()),
        output_tokens=sum(manifest.output_tokens for manifest in manifests),
        rejects=_rejects(store) if rows[REJECTED] else {},
        active_seconds=round(active, 1),
        goodput_tokens_per_second=round(accepted_tokens / active, 1) if active else None,
        eta_seconds=round((total - finished) * active / committed, 1) if committed and active else None,
        metrics=run.metrics,
    )


def _logged(store: ShardStore, committed: set[int]) -> Counter[str]:
    """Rows in the logs; a crash right after a commit can leave the log of a shard that is committed."""
    log = RowLog(store.path("log"))
    states: Counter[str] = Counter()
    for shard in set(log.shards()) - committed:
        states.update(log.recover(shard)["state"].to_pylist())
    return states


def _rejects(store: ShardStore) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for batch in store.rows(REJECTED, ["reason"]):
        for item in pc.value_counts(batch["reason"]).to_pylist():
            reasons[item["values"]] += item["counts"]
    return dict(reasons.most_common())


def _active_seconds(manifests: list[Manifest]) -> float:
    """Length of the union of the shards' spans: shards overlap, and between two starts there may be days."""
    spans = sorted((datetime.fromisoformat(m.started_at), datetime.fromisoformat(m.finished_at)) for m in manifests)
    seconds, until = 0.0, None
    for start, end in spans:
        if until is not None:
            start = max(start, until)
        seconds += max((end - start).total_seconds(), 0.0)
        until = end if until is None else max(until, end)
    return seconds

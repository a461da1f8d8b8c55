"""`kindling status`: how far a run is, from disk, and from its endpoint while it runs."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation_status import EvaluateStatus, evaluate_status
from pipelines.labelling.record import read_record
from pipelines.live_status import iso, paid, rounded, told_of
from pipelines.other_status import LabelStatus, TrainStatus, label_status, refuse_composition, train_status
from pipelines.run_history import read_history, spans_of_rows
from pipelines.verification import open_run
from schemas.rows import ACCEPTED, REJECTED, STATES, rule_of
from schemas.run import RunRecord
from services.activity import active_seconds
from services.metrics import SilentError, ask
from services.row_log import RowLog
from services.shard_index import read_index, spans_of
from services.store import ShardStore

_SLOWEST = 5
_LOG_COLUMNS = ["state", "reason", "output_tokens", "started_at", "duration_seconds"]


@dataclass(frozen=True)
class RunStatus:
    """State of a run.

    Attributes:
        source: `endpoint` where the running job told how far it is, else `disk`.
        silent: why no endpoint did; empty where one did, or none was asked since the run is complete.
        rows: rows by state, those in the log of open shards included.
        variants: names of the sweep's combinations, by each of which every input row is a row; none without a sweep.
        logged: rows of shards that are still open.
        in_flight: rows that are with replicas; None where that is not known.
        rejects: rejected rows by rule, the commonest first.
        active_seconds: time in which some row was with an engine; pauses between starts do not count.
        goodput_tokens_per_second: output tokens of accepted rows over that time; None before the first row.
        goodput_now_tokens_per_second: the same over the last minute, or of a run that stands still over its last one.
        eta_seconds: to the last row, if the rest is like the last ten minutes; None before enough rows are through.
        eta_low_seconds, eta_high_seconds: a 90% interval of it; the second is None where the rates vary too much.
        last_row_at: when the last row came to its end, ISO 8601, UTC; None before the first.
        replicas: how each one is: see `ReplicaNow`, and `node` and `cores`; none where that is not known.
        slowest_shards: the committed ones that took longest.
        open_shards: those that have a row and are not committed, the oldest first; only on a local file system.
        metrics: address of the endpoint.
        replica_hours: that replicas were there, in all starts but killed ones; None before that is known.
        cost: of these, at the job's price of an hour; None where it has none.
    """

    run: str
    name: str
    complete: bool
    source: str
    silent: str
    rows: dict[str, int]
    rows_total: int
    variants: list[str]
    logged: int
    in_flight: int | None
    shards: int
    shards_total: int
    output_tokens: int
    rejects: dict[str, int]
    active_seconds: float
    goodput_tokens_per_second: float | None
    goodput_now_tokens_per_second: float | None
    eta_seconds: float | None
    eta_low_seconds: float | None
    eta_high_seconds: float | None
    last_row_at: str | None
    replicas: list[dict[str, Any]]
    slowest_shards: list[dict[str, Any]]
    open_shards: list[dict[str, Any]]
    metrics: str
    replica_hours: float | None = None
    cost: float | None = None
    kind: str = "augment"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def status(url: str) -> RunStatus | TrainStatus | LabelStatus | EvaluateStatus:
    """How far a run, a training, a labelling or an evaluation is; nothing is written.

    Of a run it reads run.json, the index of committed shards, the manifests of those not in it, the log of open ones,
    and the endpoint that run.json names.

    Raises:
        RunError: the folder holds none of these, or a shard is damaged.
    """
    store = ShardStore(url)
    if labels := read_record(store):
        return label_status(store, labels)
    if training := train_status(store):
        return training
    if evaluation := evaluate_status(store, _finished):
        return evaluation
    refuse_composition(store)
    run = open_run(store)
    found = _on_disk(store, run)
    if found.complete:
        return found
    try:
        return replace(found, source="endpoint", **told_of(ask(run.metrics, run.start_id), found, run))
    except SilentError as error:
        return replace(found, silent=str(error))


def _on_disk(store: ShardStore, run: RunRecord) -> RunStatus:
    logs = _logs(store)  # before the index: a shard that is committed meanwhile is in both, and not in neither
    index = read_index(store, run)
    shards, table = index.totals(), index.table()
    logs = {shard: rows for shard, rows in logs.items() if shard not in index.committed}
    logged = pa.concat_tables(logs.values()) if logs else None
    rows, rejects = Counter(shards.counts), Counter(shards.rejects)
    committed, output_tokens, accepted_tokens = sum(rows.values()), shards.output_tokens, shards.accepted_output_tokens
    starts, ends = spans_of(table)
    if logged:
        rows.update(logged["state"].to_pylist())
        rejects.update(map(rule_of, logged.filter(pc.equal(logged["state"], REJECTED))["reason"].to_pylist()))
        output_tokens += pc.sum(logged["output_tokens"]).as_py()
        accepted_tokens += pc.sum(logged.filter(pc.equal(logged["state"], ACCEPTED))["output_tokens"]).as_py() or 0
        starts, ends = map(np.append, (starts, ends), spans_of_rows(logged))
    total, finished, active = run.outputs, sum(rows.values()), active_seconds(starts, ends)
    history = read_history(store, table, list(logs.values()), total - finished)
    eta = history.eta
    return RunStatus(
        run=store.url,
        name=run.name,
        complete=committed == total,
        source="disk",
        silent="",
        rows={state: rows[state] for state in STATES},
        rows_total=total,
        variants=[variant.name for variant in run.variants],
        logged=finished - committed,
        in_flight=None,
        shards=shards.shards,
        shards_total=run.shards,
        output_tokens=output_tokens,
        rejects=dict(rejects.most_common()),
        active_seconds=round(active, 1),
        goodput_tokens_per_second=round(accepted_tokens / active, 1) if active else None,
        goodput_now_tokens_per_second=round(history.rates.accepted_tokens, 1) if finished else None,
        eta_seconds=rounded(eta and eta.seconds),
        eta_low_seconds=rounded(eta and eta.low),
        eta_high_seconds=rounded(eta and eta.high),
        last_row_at=iso(history.last_row_at),
        replicas=[],
        slowest_shards=_slowest(table),
        open_shards=_open(run, logs),
        metrics=run.metrics,
        **paid(run.last_metrics.get),
    )


def _finished(store: ShardStore) -> tuple[int, int]:
    found = _on_disk(store, open_run(store))
    return sum(found.rows.values()), found.rows_total


def _logs(store: ShardStore) -> dict[int, pa.Table]:
    log = RowLog(store)
    logs = {shard: log.recover(shard).select(_LOG_COLUMNS) for shard in log.shards()}
    return {shard: rows for shard, rows in logs.items() if rows.num_rows}


def _slowest(table: pa.Table) -> list[dict[str, Any]]:
    """The committed shards that took longest, pauses between starts left out."""
    started, finished = (table[name].cast(pa.int64()).to_numpy() for name in ("started_at", "finished_at"))
    seconds = (finished - started) / 1000
    for number in np.flatnonzero(pc.list_value_length(table["pauses"]).to_numpy()):
        moments = [each.timestamp() for each in table["pauses"][number].as_py()]
        seconds[number] -= sum(moments[1::2]) - sum(moments[::2])
    found = []
    for number in np.argsort(-seconds, kind="stable")[:_SLOWEST]:
        entry = {name: table[name][number].as_py() for name in ("shard", *STATES, "output_tokens")}
        rows = sum(entry.pop(state) for state in STATES)
        found.append({**entry, "rows": rows, "seconds": round(seconds[number].item(), 1)})
    return found


def _open(run: RunRecord, logs: dict[int, pa.Table]) -> list[dict[str, Any]]:
    """The open shards by their age: one that stays open has a row that takes long, or was killed again and again."""
    sizes = {shard: end - start for shard, start, end in run.shard_ranges() if shard in logs}
    found = [
        {
            "shard": shard,
            "rows": rows.num_rows,
            "rows_total": sizes.get(shard, 0) * run.outputs_per_row,
            "started_at": iso(float(spans_of_rows(rows)[0].min())),
        }
        for shard, rows in logs.items()
    ]
    return sorted(found, key=lambda each: each["started_at"])

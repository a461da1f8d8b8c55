"""Status of an `augment` run."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run_folder import open_run
from pipelines.run_status.history import read_history, spans_of_rows
from schemas.rows import ACCEPTED, REJECTED, STATES, rule_of
from schemas.run import RunRecord
from services.observability.metrics import EndpointMetrics
from services.storage.row_log import RowLog
from services.storage.shard_index import generation_spans, read_index
from services.storage.store import ShardStore
from services.storage.time_spans import active_seconds

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
        replicas: how each one is: see `ReplicaStatus`, and `node` and `cores`; none where that is not known.
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


def _on_disk(store: ShardStore, run: RunRecord) -> RunStatus:
    logs = _logs(store)  # before the index: a shard that is committed meanwhile is in both, and not in neither
    index = read_index(store, run)
    shards, table = index.totals(), index.table()
    logs = {shard: rows for shard, rows in logs.items() if shard not in index.committed}
    logged = pa.concat_tables(logs.values()) if logs else None
    rows, rejects = Counter(shards.counts), Counter(shards.rejects)
    committed, output_tokens, accepted_tokens = sum(rows.values()), shards.output_tokens, shards.accepted_output_tokens
    starts, ends = generation_spans(table)
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


def told_of(told: EndpointMetrics, found: RunStatus, run: RunRecord) -> dict[str, Any]:
    """Attributes of a `RunStatus` that are newer than what was found on disk; what is not told is not among them."""
    replicas = _replicas(told, run)
    rows = {state: int(told.value("kindling_rows_total", state=state) or 0) for state in STATES}
    rejects = Counter({rule: int(count) for rule, count in told.values_by("reason", "kindling_rejects_total").items()})
    newer: dict[str, Any] = {
        **paid(told.value),
        "rows": rows,
        "rejects": dict(rejects.most_common()),
        "logged": sum(rows.values()) - sum(found.rows.values()) + found.logged,
        "output_tokens": int(told.value("kindling_tokens_total", kind="output") or 0),
        "in_flight": int(told.value("kindling_requests_in_flight") or 0),
        "last_row_at": max((each["last_rows_at"] for each in replicas if each["last_rows_at"]), default=None)
        or found.last_row_at,
        "replicas": replicas,
    }
    if bounds := told.values_by("bound", "kindling_eta_bound_seconds"):  # there are none before a start has any replica
        newer |= {
            "eta_seconds": rounded(told.value("kindling_eta_seconds")),
            "eta_low_seconds": rounded(bounds.get("low")),
            "eta_high_seconds": rounded(bounds.get("high")),
            "goodput_now_tokens_per_second": rounded(told.value("kindling_goodput_last_minute_tokens_per_second")),
        }
    if found.goodput_tokens_per_second is None:  # nothing is on disk where no log can be kept and no shard is full
        newer["goodput_tokens_per_second"] = rounded(told.value("kindling_goodput_tokens_per_second") or None)
    return newer


def _replicas(told: EndpointMetrics, run: RunRecord) -> list[dict[str, Any]]:
    came_up = {each["number"]: each for each in run.replicas}  # where one died, the last
    in_flight, rows, deaths, last = (
        told.values_by("replica", f"kindling_replica_{name}")
        for name in ("requests_in_flight", "rows_total", "deaths_total", "last_rows_timestamp_seconds")
    )
    found = []
    for labels in told.labels("kindling_replica_state"):
        number = labels["replica"]
        where = came_up.get(int(number), {}) if labels["state"] == "serving" else {}
        found.append(
            {
                "number": int(number), "state": labels["state"], "in_flight": int(in_flight[number]),
                "rows": int(rows[number]), "deaths": int(deaths[number]), "last_rows_at": iso(last.get(number)),
                "node": where.get("node", ""), "cores": list(where.get("cores", ())),
            }
        )  # fmt: skip
    return found


def paid(value: Callable[[str], float | None]) -> dict[str, float | None]:
    """`replica_hours` and `cost` from what `value` tells of two series; nothing where it does not know the first."""
    seconds, price = value("kindling_replica_seconds_total"), value("kindling_price_per_replica_hour")
    if seconds is None:
        return {}
    cost = None if price is None or not math.isfinite(price) else round(seconds / 3600 * price, 2)
    return {"replica_hours": round(seconds / 3600, 4), "cost": cost}


def rounded(value: float | None) -> float | None:
    """What JSON can hold: it has no infinity."""
    return None if value is None or not math.isfinite(value) else round(value, 1)


def iso(seconds: float | None) -> str | None:
    """A moment of the Unix clock as ISO 8601, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

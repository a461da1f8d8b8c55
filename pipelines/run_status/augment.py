"""Status of an `augment` run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.augmentation.target import rows_left
from pipelines.run_folder import open_run
from pipelines.run_status.augment_page import augment_line, augment_page
from pipelines.run_status.history import read_history, spans_of_rows
from pipelines.run_status.page import EndpointStatus
from schemas.outcomes import OUTCOME_COLUMNS, Outcomes, by_frequency
from schemas.row_programs import EARLIER_TRIES, all_tokens
from schemas.rows import ACCEPTED, STATES
from schemas.run import REPLICA_SECONDS, RunRecord
from services.observability.endpoint_reader import EndpointError, EndpointMetrics, read_endpoint
from services.storage.parts import part_number, retry_of
from services.storage.row_log import open_row_log
from services.storage.shard_index import generation_spans, read_index
from services.storage.store import ShardStore
from services.storage.time_spans import active_seconds

_SLOWEST = 5


_LOG_COLUMNS = [
    *OUTCOME_COLUMNS, "output_tokens", "other_output_tokens", "started_at", "duration_seconds", EARLIER_TRIES,
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunStatus(EndpointStatus):
    """Progress of an `augment` run.

    Attributes:
        rows: rows by state, those in the log of open shards included.
        variants: names of the sweep's combinations, by each of which every input row is a row; none without a sweep.
        logged: rows of shards that are still open.
        left_to_retry: rows that the last `--retry` has left; until they are committed they have their old state.
        in_flight: rows that are with replicas; None where that is not known.
        cut_off: accepted rows whose text was cut off.
        rejects: rejected rows by rule, the commonest first.
        errors: failed rows by reason, with N in place of numbers, the commonest first.
        tries: tries that were not the last one of their row, by the rule that rejected them, the commonest first.
        active_seconds: time in which some row was with an engine; pauses between starts do not count.
        goodput_tokens_per_second: output tokens of accepted rows over that time; None before the first row.
        goodput_now_tokens_per_second: the same over the last minute, or of a run that stands still over its last one.
        eta_seconds: to the last row, if the rest is like the last ten minutes; None before enough rows are through.
        eta_low_seconds, eta_high_seconds: a 90% interval of it; the second is None where the rates vary too much.
        last_row_at: when the last row came to its end, ISO 8601, UTC; None before the first.
        replicas: how each one is: see `ReplicaStatus`, and `node` and `cores`; none where that is not known.
        slowest_shards: the committed ones that took longest.
        open_shards: those that have a row and are not committed, the oldest first.
        metrics: address of the endpoint.
        replica_hours: that replicas were there, in all starts, of killed ones up to their last minute; None before that
            is known.
        cost: of these, at the job's price of an hour; None where it has none.
        target_accepted: number of accepted rows at which the job ends; None for no target.
        rows_not_read: rows behind the target, once it is reached; they are not among `rows_total`.
        budget: limits of `output_tokens`, `replica_hours` and `cost` that the job has, as `tokens`, `hours`, `cost`.
    """

    kind: str = "augment"
    rows: dict[str, int]
    rows_total: int
    variants: list[str]
    logged: int
    in_flight: int | None
    shards: int
    shards_total: int
    output_tokens: int
    cut_off: int
    rejects: dict[str, int]
    errors: dict[str, int]
    tries: dict[str, int]
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
    left_to_retry: int = 0
    target_accepted: int | None = None
    rows_not_read: int = 0
    budget: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """The status in one line."""
        return augment_line(self)

    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Facts of the run, and lists that may be cut."""
        return augment_page(self, now, width)


def augment_status(store: ShardStore, may_run: bool) -> RunStatus:
    """Status of an `augment` run, from its files, and from its endpoint while its job runs.

    Args:
        may_run: whether its job may run now; the endpoint is asked only then.

    Raises:
        RunError: the folder holds no run, or a shard is damaged.
    """
    run = open_run(store)
    status = _on_disk(store, run)
    if status.complete or not may_run:
        return status
    try:
        return replace(
            status, source="endpoint", **_from_endpoint(read_endpoint(run.metrics, run.start_id), status, run)
        )
    except EndpointError as error:
        return replace(status, silent=str(error))


def count_finished(store: ShardStore) -> tuple[int, int]:
    """Number of rows of a run with a terminal state, and of all its rows.

    Raises:
        RunError: the folder holds no run, or a shard is damaged.
    """
    status = _on_disk(store, open_run(store))
    return sum(status.rows.values()), status.rows_total


def _on_disk(store: ShardStore, run: RunRecord) -> RunStatus:
    logs = _logs(store, run)  # before the index: a shard that is committed meanwhile is in both, and not in neither
    index = read_index(store, run)
    shards, table = index.totals(), index.table()
    # A row that is generated again keeps its old state until its part is committed.
    logs = {shard: rows for shard, rows in logs.items() if shard not in index.committed and not retry_of(shard)}
    logged = pa.concat_tables(logs.values()) if logs else None
    outcomes, rows = shards.outcomes, shards.outcomes.counts
    committed, output_tokens, accepted_tokens = sum(rows.values()), shards.output_tokens, shards.accepted_output_tokens
    starts, ends = generation_spans(table)
    if logged:
        outcomes.add(Outcomes.of(logged))
        output_tokens += all_tokens(logged, "output_tokens")
        accepted_tokens += pc.sum(logged.filter(pc.equal(logged["state"], ACCEPTED))["output_tokens"]).as_py() or 0
        starts, ends = map(np.append, (starts, ends), spans_of_rows(logged))
    left_to_retry = sum(index.left_to_retry(run).values())
    target = run.job.get("target_accepted")
    total, finished, active = run.outputs, sum(rows.values()), active_seconds(starts, ends)
    history = read_history(store, table, list(logs.values()), rows_left(total, target, rows))
    eta = history.eta
    status = RunStatus(
        run=store.url,
        name=run.name,
        complete=committed == total and not left_to_retry,
        left_to_retry=left_to_retry,
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
        cut_off=outcomes.cut_off,
        rejects=by_frequency(outcomes.rejects),
        errors=by_frequency(outcomes.errors),
        tries=by_frequency(outcomes.tries),
        active_seconds=round(active, 1),
        goodput_tokens_per_second=round(accepted_tokens / active, 1) if active else None,
        goodput_now_tokens_per_second=round(history.rates.accepted_tokens, 1) if finished else None,
        eta_seconds=_rounded(eta.seconds if eta else None),
        eta_low_seconds=_rounded(eta.low if eta else None),
        eta_high_seconds=_rounded(eta.high if eta else None),
        last_row_at=_iso(history.last_row_at),
        replicas=[],
        slowest_shards=_slowest(table),
        open_shards=_open(run, logs),
        metrics=run.metrics,
        target_accepted=target,
        rows_not_read=run.rows_not_read,
        budget={name: limit for name, limit in run.job.get("budget", {}).items() if limit is not None},
    )
    return replace(status, **_cost(run.last_metrics.get))


def _logs(store: ShardStore, run: RunRecord) -> dict[int, pa.Table]:
    log = open_row_log(store, run.logged_schema)
    columns = [name for name in _LOG_COLUMNS if name in run.logged_schema.names]
    logs = {shard: log.recover(shard).select(columns) for shard in log.shards()}
    return {shard: rows for shard, rows in logs.items() if rows.num_rows}


def _slowest(table: pa.Table) -> list[dict[str, Any]]:
    """The committed shards that took longest, pauses between starts left out."""
    table = table.filter(pc.less(table["shard"], part_number(0, 1)))
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
            "started_at": _iso(float(spans_of_rows(rows)[0].min())),
        }
        for shard, rows in logs.items()
    ]
    return sorted(found, key=lambda each: each["started_at"])


def _from_endpoint(endpoint: EndpointMetrics, status: RunStatus, run: RunRecord) -> dict[str, Any]:
    """Attributes of a `RunStatus` that the endpoint of the job knows better than the files of the run.

    Args:
        status: the status from the files.
    """
    replicas = _replicas(endpoint, run)
    rows = {state: int(endpoint.value("kindling_rows_total", state=state) or 0) for state in STATES}
    rejects, errors, tries = (
        {reason: int(rows) for reason, rows in endpoint.values_by("reason", f"kindling_{kind}_total").items()}
        for kind in ("rejects", "errors", "tries")
    )
    newer: dict[str, Any] = {
        **_cost(endpoint.value),
        "rows": rows,
        "cut_off": int(endpoint.value("kindling_cut_off_rows_total") or 0),
        "rejects": by_frequency(rejects),
        "errors": by_frequency(errors),
        "tries": by_frequency(tries),
        # On disk, rows that are left to retry have their old state; the endpoint does not count them.
        "logged": max(sum(rows.values()) - sum(status.rows.values()) + status.logged + status.left_to_retry, 0),
        "output_tokens": int(endpoint.value("kindling_tokens_total", kind="output") or 0),
        "in_flight": int(endpoint.value("kindling_requests_in_flight") or 0),
        "last_row_at": max((replica["last_rows_at"] for replica in replicas if replica["last_rows_at"]), default=None)
        or status.last_row_at,
        "replicas": replicas,
    }
    if bounds := endpoint.values_by("bound", "kindling_eta_bound_seconds"):  # none before the first replica serves
        newer |= {
            "eta_seconds": _rounded(endpoint.value("kindling_eta_seconds")),
            "eta_low_seconds": _rounded(bounds.get("low")),
            "eta_high_seconds": _rounded(bounds.get("high")),
            "goodput_now_tokens_per_second": _rounded(endpoint.value("kindling_goodput_last_minute_tokens_per_second")),
        }
    if status.goodput_tokens_per_second is None:  # no row is on disk yet
        newer["goodput_tokens_per_second"] = _rounded(endpoint.value("kindling_goodput_tokens_per_second") or None)
    return newer


def _replicas(endpoint: EndpointMetrics, run: RunRecord) -> list[dict[str, Any]]:
    started = {replica["number"]: replica for replica in run.replicas}  # of a replaced one the last entry
    in_flight, rows, deaths, last = (
        endpoint.values_by("replica", f"kindling_replica_{name}")
        for name in ("requests_in_flight", "rows_total", "deaths_total", "last_rows_timestamp_seconds")
    )
    replicas = []
    for labels in endpoint.labels("kindling_replica_state"):
        number = labels["replica"]
        where = started.get(int(number), {}) if labels["state"] == "serving" else {}
        replicas.append(
            {
                "number": int(number), "state": labels["state"], "in_flight": int(in_flight[number]),
                "rows": int(rows[number]), "deaths": int(deaths[number]), "last_rows_at": _iso(last.get(number)),
                "node": where.get("node", ""), "cores": list(where.get("cores", ())),
            }
        )  # fmt: skip
    return replicas


def _cost(value: Callable[[str], float | None]) -> dict[str, Any]:
    """`replica_hours` and `cost` of a run; empty where its replica-seconds are not known.

    Args:
        value: gives the value of a metric by its name, or None.
    """
    seconds, price = value(REPLICA_SECONDS), value("kindling_price_per_replica_hour")
    if seconds is None:
        return {}
    cost = None if price is None or not math.isfinite(price) else round(seconds / 3600 * price, 2)
    return {"replica_hours": round(seconds / 3600, 6), "cost": cost}


def _rounded(value: float | None) -> float | None:
    """The value with one decimal; None for infinity, which JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else round(value, 1)


def _iso(seconds: float | None) -> str | None:
    """A time of the Unix clock as ISO 8601, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

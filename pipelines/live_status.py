"""What a run that is being worked on tells of itself at its endpoint."""

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from schemas.rows import STATES
from schemas.run import RunRecord
from services.metrics import Told

if TYPE_CHECKING:
    from pipelines.run_status import RunStatus


def told_of(told: Told, found: "RunStatus", run: RunRecord) -> dict[str, Any]:
    """Attributes of a `RunStatus` that are newer than what was found on disk; what is not told is not among them."""
    replicas = _replicas(told, run)
    rows = {state: int(told.value("kindling_rows_total", state=state) or 0) for state in STATES}
    rejects = Counter({rule: int(count) for rule, count in told.by("reason", "kindling_rejects_total").items()})
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
    if bounds := told.by("bound", "kindling_eta_bound_seconds"):  # there are none before a start has any replica
        newer |= {
            "eta_seconds": rounded(told.value("kindling_eta_seconds")),
            "eta_low_seconds": rounded(bounds.get("low")),
            "eta_high_seconds": rounded(bounds.get("high")),
            "goodput_now_tokens_per_second": rounded(told.value("kindling_goodput_last_minute_tokens_per_second")),
        }
    if found.goodput_tokens_per_second is None:  # nothing is on disk where no log can be kept and no shard is full
        newer["goodput_tokens_per_second"] = rounded(told.value("kindling_goodput_tokens_per_second") or None)
    return newer


def _replicas(told: Told, run: RunRecord) -> list[dict[str, Any]]:
    came_up = {each["number"]: each for each in run.replicas}  # where one died, the last
    in_flight, rows, deaths, last = (
        told.by("replica", f"kindling_replica_{name}")
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

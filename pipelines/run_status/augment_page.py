"""The page of the status of an `augment` run."""

from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.run_status.page import age, progress_bar, time_left, titled_list
from schemas.outcomes import cut_off_share
from schemas.rows import counts_text
from schemas.text import clock, format_amount, plural, shorten

if TYPE_CHECKING:
    from pipelines.run_status.augment import RunStatus


def augment_line(status: "RunStatus") -> str:
    """The status in one line: rows, state, throughput, time left."""
    recent = status.goodput_now_tokens_per_second
    rate = f", {recent:,.0f} tokens/s" if recent is not None else ""
    finished = f"{sum(status.rows.values()):,} of {status.rows_total:,} rows"
    left = "" if status.complete else time_left(status.eta_seconds, status.eta_low_seconds, status.eta_high_seconds)
    return f"{shorten(status.name)}: {finished}, {_state(status)}{rate}{left}"


def augment_page(status: "RunStatus", now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
    """Facts of the run; and lists of its replicas, reasons, slowest and open shards."""
    lists = [_replicas(status, now), *_reasons(status), _slowest(status), _open(status, now)]
    return _facts(status, now, width), lists


def _facts(status: "RunStatus", now: datetime, width: int) -> list[str]:
    finished = sum(status.rows.values())
    lines = [
        f"{status.name}: {finished:,} of {status.rows_total:,} rows ({finished / status.rows_total:.1%}), "
        f"{_state(status)}",
        progress_bar(finished, status.rows_total, width),
    ]
    lines += status.silence_lines()
    if status.variants:
        lines.append(f"variants  {len(status.variants)} of each row: {shorten('; '.join(status.variants))}")
    in_flight = "" if status.in_flight is None else f"; {status.in_flight:,} in flight"
    logged = f"; {status.logged:,} of them in open shards" if status.logged else ""
    lines.append(f"rows      {counts_text(status.rows)}{logged}{in_flight}")
    worked = f"; {status.output_tokens:,} output tokens in {clock(status.active_seconds)} of work"
    if status.left_to_retry:
        lines.append(
            f"retry     {status.left_to_retry:,} rows are left to generate again, and have their old state until then"
        )
    if status.target_accepted:
        behind = f"; {plural(status.rows_not_read, 'input row')} behind it not read" if status.rows_not_read else ""
        lines.append(f"target    {status.rows['accepted']:,} of {status.target_accepted:,} accepted rows{behind}")
    if status.cut_off:
        lines.append(f"cut off   {cut_off_share(status.cut_off, status.rows['accepted'])}, at max_tokens")
    lines.append(f"shards    {status.shards:,} of {status.shards_total:,}{worked if status.active_seconds else ''}")
    if status.goodput_tokens_per_second is not None:
        which = "the last minute" if status.source == "endpoint" else "its last minute"
        recent = status.goodput_now_tokens_per_second
        recent_text = f"{recent:,.1f} in {which}, " if recent is not None and not status.complete else ""
        lines.append(
            f"goodput   {recent_text}{status.goodput_tokens_per_second:,.1f} overall (accepted output tokens/s)"
        )
    if not status.complete and finished:
        left = time_left(status.eta_seconds, status.eta_low_seconds, status.eta_high_seconds)
        lines.append(
            f"left      {left.removeprefix(', ').removesuffix(' left') or 'not known before more rows are through'}"
        )
    if status.replica_hours is not None:
        price = "" if status.cost is None else f"{status.cost:,.2f}, "
        lines.append(f"cost      {price}{status.replica_hours:,.3g} replica-hours")
    if status.budget:
        lines.append(f"budget    {_budget(status)}")
    if not status.complete and status.last_row_at:
        lines.append(f"last row  {age(status.last_row_at, now)} ago")
    return lines


def _state(status: "RunStatus") -> str:
    serving = any(replica["state"] == "serving" for replica in status.replicas)
    return "starting" if status.source == "endpoint" and not serving else status.state_text()


def _budget(status: "RunStatus") -> str:
    used = {
        "tokens": f"output tokens {status.output_tokens:,}",
        "hours": f"replica-hours {status.replica_hours or 0:,.3g}",
        "cost": f"cost {status.cost or 0:,.2f}",
    }
    parts = [f"{used[name]} of {format_amount(limit)}" for name, limit in status.budget.items()]
    return f"used: {', '.join(parts)}"


def _replicas(status: "RunStatus", now: datetime) -> list[str]:
    if not status.replicas:
        return []
    nodes = {replica["node"] for replica in status.replicas} - {""}
    lines = [f"replicas  {'state':9}{'in flight':>10}{'rows':>12}{'last rows':>11}{'deaths':>8}  where"]
    # Replicas that do not serve, or that died, come first: the page may be cut below them.
    for replica in sorted(status.replicas, key=lambda r: (r["state"] == "serving", -r["deaths"], r["number"])):
        last = age(replica["last_rows_at"], now) if replica["last_rows_at"] else "-"
        where = [f"node {replica['node'][:8]}"] if len(nodes) > 1 and replica["node"] else []
        where += [f"cores {_ranges(replica['cores'])}"] if replica["cores"] else []
        lines.append(
            f"{replica['number']:>8}  {replica['state']:9}{replica['in_flight']:>10,}{replica['rows']:>12,}{last:>11}"
            f"{replica['deaths']:>8,}  {', '.join(where)}".rstrip()
        )
    return lines


def _reasons(status: "RunStatus") -> list[list[str]]:
    return [
        titled_list(title, [f"{rows:,} x {reason}" for reason, rows in reasons.items()])
        for title, reasons in (("failed", status.errors), ("rejected", status.rejects), ("tried again", status.tries))
    ]


def _slowest(status: "RunStatus") -> list[str]:
    shards = [
        f"shard {shard['shard']}: {clock(shard['seconds'])} for {plural(shard['rows'], 'row')}, "
        f"{plural(shard['output_tokens'], 'token')}"
        for shard in status.slowest_shards
    ]
    return titled_list("slowest", shards)


def _open(status: "RunStatus", now: datetime) -> list[str]:
    ages = [f", begun {age(shard['started_at'], now)} ago" for shard in status.open_shards]
    if status.state in ("stopped", "failed"):  # the pause would count as age
        ages = [""] * len(ages)
    shards = [
        f"shard {shard['shard']}: {shard['rows']:,} of {shard['rows_total']:,} rows{its_age}"
        for shard, its_age in zip(status.open_shards, ages, strict=True)
    ]
    return titled_list("open", shards)


def _ranges(numbers: list[int]) -> str:
    """`0-3,8` of [0, 1, 2, 3, 8]."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)

"""The page of `kindling status`: plain lines that fit a terminal, whatever it can."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pipelines.augmentation.progress import counts_text
from pipelines.run_status.augment import RunStatus
from pipelines.run_status.evaluate import EvaluatedPart, EvaluateStatus
from pipelines.run_status.label import LabelStatus
from pipelines.run_status.train import TrainStatus
from schemas.text import shorten
from services.observability.terminal import clock

Status = RunStatus | TrainStatus | LabelStatus | EvaluateStatus

# Of a list, where nothing bounds the page; `--json` has them all.
_MOST_LINES = 10


def page(status: Status, now: datetime, width: int, height: int | None = None) -> list[str]:
    """The lines of the page.

    Args:
        now: for what happened so long ago.
        width: characters of a line, beyond which it is cut.
        height: lines of the page, beyond which lists are cut; None for as many as are of use.
    """
    lines, lists = _parts(status, now, width)
    room = [_MOST_LINES] * len(lists) if height is None else _shared(height - len(lines), [len(each) for each in lists])
    for each, most in zip(lists, room, strict=True):
        lines += each if len(each) <= most else [*each[: most - 1], f"{'':10}and {len(each) - most + 1} more"][:most]
    return [line if len(line) <= width else f"{line[: width - 3]}..." for line in map(_printable, lines)]


def line(status: Status) -> str:
    """The same in one line."""
    if isinstance(status, LabelStatus):
        return f"{shorten(status.name)}: {status.shards} of {status.shards_total} shards"
    if isinstance(status, TrainStatus):
        return f"{shorten(status.name)}: {_step(status)}{_left(status.eta_seconds, None, None)}"
    if isinstance(status, EvaluateStatus):
        return f"{shorten(status.name)}: {_parts_done(status)}"
    now = status.goodput_now_tokens_per_second
    rate = f", {now:,.0f} tokens/s" if now is not None else ""
    finished = f"{sum(status.rows.values()):,} of {status.rows_total:,} rows"
    left = _left(status.eta_seconds, status.eta_low_seconds, status.eta_high_seconds)
    return f"{shorten(status.name)}: {finished}, {_state(status)}{rate}{'' if status.complete else left}"


def _parts(status: Status, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
    """The lines that are always there, and lists that may be cut."""
    if isinstance(status, LabelStatus):
        return [line(status), _bar(status.shards, status.shards_total, width)], []
    if isinstance(status, TrainStatus):
        return _training(status, width), []
    if isinstance(status, EvaluateStatus):
        lines = [f"{status.name}: {_parts_done(status)}", _bar(_done(status), len(status.parts), width)]
        failed = [f"{name}: {shorten(error)}" for name, error in status.failures.items()]
        silent = [f"from disk: {status.silent}"] if status.silent else []
        return lines + silent, [_evaluated(status.parts), _titled("failed", failed)]
    return _run(status, now, width), [_replicas(status, now), _rejects(status), _slowest(status), _open(status, now)]


def _run(status: RunStatus, now: datetime, width: int) -> list[str]:
    finished = sum(status.rows.values())
    lines = [
        f"{status.name}: {finished:,} of {status.rows_total:,} rows ({finished / status.rows_total:.1%}), "
        f"{_state(status)}",
        _bar(finished, status.rows_total, width),
    ]
    if status.silent:
        lines.append(f"from disk: {status.silent}")
    if status.variants:
        lines.append(f"variants  {len(status.variants)} of each row: {shorten('; '.join(status.variants))}")
    in_flight = "" if status.in_flight is None else f"; {status.in_flight:,} in flight"
    logged = f"; {status.logged:,} of them in open shards" if status.logged else ""
    lines.append(f"rows      {counts_text(status.rows)}{logged}{in_flight}")
    worked = f"; {status.output_tokens:,} output tokens in {clock(status.active_seconds)} of work"
    lines.append(f"shards    {status.shards:,} of {status.shards_total:,}{worked if status.active_seconds else ''}")
    if status.goodput_tokens_per_second is not None:
        which = "the last minute" if status.source == "endpoint" else "its last minute"
        recent = status.goodput_now_tokens_per_second
        recent_text = f"{recent:,.1f} in {which}, " if recent is not None and not status.complete else ""
        lines.append(
            f"goodput   {recent_text}{status.goodput_tokens_per_second:,.1f} overall (accepted output tokens/s)"
        )
    if not status.complete and finished:
        left = _left(status.eta_seconds, status.eta_low_seconds, status.eta_high_seconds)
        lines.append(
            f"left      {left.removeprefix(', ').removesuffix(' left') or 'not known before more rows are through'}"
        )
    if status.replica_hours is not None:
        price = "" if status.cost is None else f"{status.cost:,.2f}, "
        lines.append(f"cost      {price}{status.replica_hours:,.3g} replica-hours")
    if not status.complete and status.last_row_at:
        lines.append(f"last row  {_ago(status.last_row_at, now)} ago")
    return lines


def _training(status: TrainStatus, width: int) -> list[str]:
    lines = [f"{status.name}: {_step(status)}"]
    if status.complete:
        return lines
    if status.step is not None and status.steps:
        lines.append(_bar(status.step, status.steps, width))
    if status.silent:
        lines.append(f"from disk: {status.silent}")
    facts = {
        "loss": status.loss and f"{status.loss:.4f}",
        "held out": status.held_out_loss and f"{status.held_out_loss:.4f}",
        "speed": status.tokens_per_second and f"{status.tokens_per_second:,.0f} tokens/s",
        "left": status.eta_seconds and f"at most {clock(status.eta_seconds)}",
    }
    return lines + [f"{name:9} {value}" for name, value in facts.items() if value]


def _step(status: TrainStatus) -> str:
    if status.complete:
        return f"a training, complete: {', '.join(status.stages)}"
    at = "before its first step" if status.step is None else f"step {status.step} of {status.steps}"
    return f"a training, stage {status.stages[status.stage]} ({status.stage + 1} of {len(status.stages)}), {at}"


def _parts_done(status: EvaluateStatus) -> str:
    ended = "running" if status.source == "endpoint" else "complete" if status.complete else "not complete"
    return f"an evaluation, {_done(status)} of {len(status.parts)} results, {ended}"


def _done(status: EvaluateStatus) -> int:
    return sum(part.done for part in status.parts)


def _evaluated(parts: Sequence[EvaluatedPart]) -> list[str]:
    """A line for each evaluation: its results, and how far those are that have begun."""
    lines = []
    for evaluation in dict.fromkeys(part.evaluation for part in parts):
        mine = [part for part in parts if part.evaluation == evaluation]
        begun = [f"; {part.model}: {how_far}" for part in mine if not part.done and (how_far := _how_far(part))]
        lines.append(f"{evaluation:10}  {sum(part.done for part in mine)} of {len(mine)}{''.join(begun)}")
    return lines


def _how_far(part: EvaluatedPart) -> str:
    if part.examples and part.planned:
        return f"{part.examples:,} of {part.planned:,}"
    return "" if part.answers is None else f"{part.answers:,} of {part.prompts:,} prompts answered"


def _state(status: RunStatus) -> str:
    if status.complete:
        return "complete"
    if status.source == "disk":
        return "not complete"
    serving = sum(each["state"] == "serving" for each in status.replicas)
    return "running" if serving else "starting"


def _left(seconds: float | None, low: float | None, high: float | None) -> str:
    if seconds is None:
        return ""
    if low is None:
        return f", about {clock(seconds)} left"
    bound = f"to {clock(high)}" if high is not None else "on, with no upper bound yet"
    return f", about {clock(seconds)} (90%: {clock(low)} {bound}) left"


def _replicas(status: RunStatus, now: datetime) -> list[str]:
    if not status.replicas:
        return []
    nodes = {each["node"] for each in status.replicas} - {""}
    lines = [f"replicas  {'state':9}{'in flight':>10}{'rows':>12}{'last rows':>11}{'deaths':>8}  where"]
    # Those that are in trouble first; else by their number.
    for each in sorted(status.replicas, key=lambda each: (each["state"] == "serving", -each["deaths"], each["number"])):
        last = _ago(each["last_rows_at"], now) if each["last_rows_at"] else "-"
        where = [f"node {each['node'][:8]}"] if len(nodes) > 1 and each["node"] else []
        where += [f"cores {_ranges(each['cores'])}"] if each["cores"] else []
        lines.append(
            f"{each['number']:>8}  {each['state']:9}{each['in_flight']:>10,}{each['rows']:>12,}{last:>11}"
            f"{each['deaths']:>8,}  {', '.join(where)}".rstrip()
        )
    return lines


def _rejects(status: RunStatus) -> list[str]:
    return _titled("rejected", [f"{rows:,} x {reason}" for reason, rows in status.rejects.items()])


def _slowest(status: RunStatus) -> list[str]:
    shards = [
        f"shard {each['shard']}: {clock(each['seconds'])} for {each['rows']:,} rows, {each['output_tokens']:,} tokens"
        for each in status.slowest_shards
    ]
    return _titled("slowest", shards)


def _open(status: RunStatus, now: datetime) -> list[str]:
    shards = []
    for each in status.open_shards:
        rows = f"{each['rows']:,} of {each['rows_total']:,} rows"
        shards.append(f"shard {each['shard']}: {rows}, begun {_ago(each['started_at'], now)} ago")
    return _titled("open", shards)


def _titled(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title if number == 0 else '':9} {text}" for number, text in enumerate(lines)]


def _bar(done: int, total: int, width: int) -> str:
    room = max(min(width, 80) - 2, 1)
    full = room * done // total
    return f"[{'#' * full}{'-' * (room - full)}]"


def _ago(moment: str, now: datetime) -> str:
    return clock(max((now - datetime.fromisoformat(moment)).total_seconds(), 0.0))


def _ranges(numbers: list[int]) -> str:
    """`0-3,8` of [0, 1, 2, 3, 8]."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _printable(text: str) -> str:
    """What is in a run.json, or at an endpoint, moves no cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _shared(room: int, wanted: list[int]) -> list[int]:
    """The lines that each of some lists gets: as many as it wants, where there is room, else an equal share."""
    given = [0] * len(wanted)
    while room > 0 and (hungry := [i for i, (has, wants) in enumerate(zip(given, wanted, strict=True)) if has < wants]):
        for i in hungry[:room]:
            given[i] += 1
        room -= len(hungry[:room])
    return given


def now() -> datetime:
    """This moment, as `page` takes it."""
    return datetime.now(UTC)

"""What a whole job comes to: counts, tokens, time and cost, each an interval."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipelines.previewing.estimates import CONFIDENCE, Interval, Known, Total, count_of
from pipelines.previewing.rows import Candidate, Population
from pipelines.previewing.running import Ran, ends
from pipelines.previewing.serving_time import EngineSize, Sample, serving_time
from pipelines.previewing.step_costs import Wave
from schemas.rows import ACCEPTED, ERROR, REJECTED

_SECONDS_PER_HOUR = 3600.0
_TOKENS = ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
_COUNTED = {"accepted": ACCEPTED, "rejected": REJECTED, "errors": ERROR}


@dataclass(frozen=True)
class Forecast:
    """What is left of a job will come to; None is what nothing seen can tell.

    Attributes:
        rows: that are left, of which the forecast is.
        done: rows that have a terminal state already.
        confidence: with which each interval holds the true figure.
        errors: rows that cannot be generated.
        start_seconds: until an engine is up, as it took here.
        serving_seconds: from then until the last row is done.
        stop_seconds: from then until the command ends, as it took here.
        wall_seconds: all three.
        gpu_hours: None where the replicas have no GPUs.
        cost: None where the job file has no price.
        notes: what is to be known of these figures.
    """

    rows: int
    done: int
    replicas: int
    confidence: float
    accepted: Interval
    rejected: Interval
    errors: Interval
    prompt_tokens: Interval | None = None
    output_tokens: Interval | None = None
    start_seconds: float | None = None
    serving_seconds: Interval | None = None
    stop_seconds: float | None = None
    wall_seconds: Interval | None = None
    replica_hours: Interval | None = None
    gpu_hours: Interval | None = None
    cost: Interval | None = None
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def forecast_of(
    population: Population, drawn: Sequence[Candidate], ran: Ran | None, replicas: int, price: float | None, seed: int
) -> Forecast:
    """The forecast from the rows that were run.

    Args:
        drawn: the rows that were run.
        ran: what came of them; None where there was no row to run.
        replicas: of the job, where `ran` does not tell.
        price: of an hour of a replica.
    """
    counts = {
        "rows": population.left,
        "done": population.done,
        "replicas": ran.replicas if ran else replicas,
        "confidence": CONFIDENCE,
        **{name: _rows_of(state, population, ran) for name, state in _COUNTED.items()},
    }
    if ran is None or not any(record["output_tokens"] for record in ran.records):
        return Forecast(**counts, notes=["none of the rows that were tried was generated: tokens and time are unknown"])
    if len(ran.records) == 1 < population.to_generate:
        return Forecast(**counts, notes=["only one row was generated, which tells nothing of how rows differ"])
    sample = _sample(population, drawn, ran)
    # How many rows are generated is a sample's word too, where not all were looked at.
    share = len(population.generated()) / len(population.looked_at)
    doubt = (1 - share) / share * (1 / len(population.looked_at) - 1 / population.left)

    def interval(total: Total) -> Interval:
        return replace(total, error=math.hypot(total.error, total.value * math.sqrt(doubt))).interval()

    size = EngineSize.of(ran.info.max_num_seqs, ran.info.settings)
    time = serving_time(sample, _wave(ran), ran.replicas, size, seed) if ran.undisturbed else None
    serving = time and interval(time).plus(ran.overhead_seconds)
    wall = serving and serving.plus(ran.start_seconds + ran.stop_seconds)
    hours = wall and wall.times(ran.replicas / _SECONDS_PER_HOUR)
    return Forecast(
        **counts,
        prompt_tokens=interval(sample.total(sample.prompt_tokens)),
        output_tokens=interval(sample.total_by_output()).at_most(population.left * ran.most_tokens),
        start_seconds=ran.start_seconds,
        serving_seconds=serving,
        stop_seconds=ran.stop_seconds,
        wall_seconds=wall,
        replica_hours=hours,
        gpu_hours=hours.times(ran.gpus) if hours and ran.gpus else None,
        cost=hours.times(price) if hours and price is not None else None,
        notes=list(_notes(population, ran, serving)),
    )


def _rows_of(state: str, population: Population, ran: Ran | None) -> Interval:
    """Rows that end in a state, before they are generated or after.

    Both intervals hold with the probability that is promised, so their sum holds with more.
    """
    looked_at = len(population.looked_at)
    before = count_of(sum(each.refused == state for each in population.looked_at), looked_at, population.left)
    if ran is None:
        return before
    if state == ACCEPTED:
        before = Interval(0, 0, 0)
    tried, ended = len(ran.records), sum(record["state"] == state for record in ran.records)
    generated = count_of(len(population.generated()), looked_at, population.left)
    fewest, usual, most = (
        count_of(ended, tried, max(round(rows), tried)) for rows in (generated.low, generated.value, generated.high)
    )
    high = min(before.high + most.high, population.left)
    return Interval(before.value + usual.value, before.low + fewest.low, high)


def _sample(population: Population, drawn: Sequence[Candidate], ran: Ran) -> Sample:
    """What was seen of the rows."""
    generated = population.generated()
    # Of each variant the tokens at which others were cut off: up to there the length of theirs is known as well.
    longest: dict[str, int] = {}
    variants = {each.work.output_id: each.work.variant for each in generated}
    for begun in ran.begun:
        variant = variants[begun.output_id]
        longest[variant] = max(longest.get(variant, 0), begun.tokens)
    characters = {each.work.output_id: each.characters for each in generated}
    known = [
        _known(each.characters, record["output_tokens"], longest.get(each.work.variant, 0))
        for each, record in zip(drawn, ran.records, strict=True)
    ]
    begun = [
        _known(characters[each.output_id], each.record["output_tokens"], each.tokens)
        for each in ran.begun
        if each.tokens == longest[variants[each.output_id]]
    ]
    return Sample(
        np.array([each.characters for each in drawn]),
        np.array([each.shared for each in drawn]),
        *(_column(ran.records, name) for name in _TOKENS),
        most_tokens=ran.most_tokens,
        known=Known.of(known),
        begun=Known.of(known + begun),
        mean_characters=float(np.mean([each.characters for each in generated])),
        rows=population.to_generate,
    )


def _known(characters: int, tokens: int, cut_off_at: int) -> tuple[int, bool, int]:
    return characters, tokens >= cut_off_at, min(tokens, cut_off_at)


def _wave(ran: Ran) -> Wave:
    """All requests in the order in which the engine got them, without those that it refused."""
    records = ran.records + [each.record for each in ran.begun]
    finished, started = np.array(ends(records)), _column(records, "started_at")
    order = [number for number in np.argsort(started, kind="stable") if records[number]["output_tokens"]]
    prompt, cached, output = (_column(records, name)[order] for name in _TOKENS)
    return Wave(prompt - cached, output, finished[order])


def _column(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([record[name] for record in records])


def _notes(population: Population, ran: Ran, serving: Interval | None) -> Iterator[str]:
    if len(population.looked_at) == population.left and len(population.generated()) == len(ran.records):
        yield "all rows that are left were run: counts and tokens are theirs, and no estimates"
    if serving is None:
        yield "too little was seen to tell the time, or an engine died meanwhile: run more rows, -n 32"
    if ran.shared:
        yield "other jobs used the same engine meanwhile: alone the job is faster"
    if ran.replicas > 1 and not ran.gpus:
        yield f"one of {ran.replicas} replicas was measured: on one machine they share its memory, and are slower"

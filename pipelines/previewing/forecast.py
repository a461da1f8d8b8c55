"""Forecast of a whole job: counts of rows, tokens, time and cost, each with an interval."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipelines.previewing.estimates import (
    CONFIDENCE,
    Estimate,
    Interval,
    estimate_count,
    estimate_total,
    resample_weights,
)
from pipelines.previewing.output_lengths import OutputLengths
from pipelines.previewing.rows import Population, RenderedRow
from pipelines.previewing.running import EngineRun, end_seconds
from pipelines.previewing.serving_time import EngineSize, SampledRows, estimate_serving_time
from pipelines.previewing.step_costs import ServedRequests
from schemas.outcomes import CUT_OFF
from schemas.rows import ACCEPTED, ERROR, REJECTED

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Forecast:
    """Figures of the rows that a job has left; None where the rows that ran say nothing about a figure.

    Attributes:
        rows: number of rows that are left, which the forecast is for.
        done: number of rows that have a terminal state already.
        confidence: probability with which each interval holds the true figure.
        errors: rows that cannot be generated.
        cut_off: accepted rows whose text is cut off at max_tokens; None where no row could run.
        start_seconds: time until an engine is up, as measured here.
        serving_seconds: time from then until the last row is done.
        stop_seconds: time from then until the command ends, as measured here.
        wall_seconds: sum of these three times.
        gpu_hours: None where the replicas have no GPUs.
        cost: None where the job file has no price.
        notes: sentences on the limits of these figures.
    """

    rows: int
    done: int
    replicas: int
    confidence: float
    accepted: Interval
    rejected: Interval
    errors: Interval
    cut_off: Interval | None = None
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
        """Returns plain values, for `--json`."""
        return asdict(self)


def make_forecast(
    population: Population,
    sample: Sequence[RenderedRow],
    run: EngineRun | None,
    replicas: int,
    price: float | None,
    seed: int,
) -> Forecast:
    """Makes the forecast from the rows that ran.

    Args:
        population: rows that the job has left.
        sample: rows of the population that ran to their end.
        run: records of the sample and measurements of the engine; None where no row could run.
        replicas: number of replicas of the job, used where there is no run.
        price: price of a replica for one hour, or None.
        seed: seed of the resampling.
    """
    forecast = Forecast(
        rows=population.rows_left,
        done=population.rows_done,
        replicas=run.replicas if run else replicas,
        confidence=CONFIDENCE,
        accepted=_estimate_state(ACCEPTED, population, run),
        rejected=_estimate_state(REJECTED, population, run),
        errors=_estimate_state(ERROR, population, run),
        cut_off=_estimate_generated(_is_cut_off, population, run) if run else None,
    )
    if run is None or not any(record["output_tokens"] for record in run.records):
        note = "none of the rows that were tried was generated: tokens and time are unknown"
        return replace(forecast, notes=[note])
    if len(run.records) == 1 < population.rows_to_generate:
        return replace(forecast, notes=["only one row was generated, which tells nothing of how rows differ"])
    random = np.random.default_rng(seed)
    is_generated = np.array([not row.refused_state for row in population.rendered])
    rows = estimate_total(is_generated, population.rows_left, random)
    output_tokens = rows.times(_output_lengths(sample, run).estimate_mean(rows.value, random))
    serving = None
    if run.undisturbed:
        size = EngineSize.of(run.info.max_num_seqs, run.info.settings)
        requests = _served_requests(run)
        sampled = _sampled_rows(sample, run)
        serving = estimate_serving_time(sampled, rows, output_tokens, requests, run.replicas, size, random)
    forecast = replace(
        forecast,
        prompt_tokens=_estimate_prompt_tokens(population, sample, run, random).interval(),
        output_tokens=output_tokens.interval().at_most(population.rows_left * run.max_tokens),
        start_seconds=run.start_seconds,
        stop_seconds=run.stop_seconds,
        notes=list(_notes(population, run, serving)),
    )
    return forecast if serving is None else _with_times(forecast, run, serving.interval(), price)


def _with_times(forecast: Forecast, run: EngineRun, serving: Interval, price: float | None) -> Forecast:
    """Adds what follows from the time of serving: times of the whole job, replica-hours and cost."""
    serving_seconds = serving.plus(run.overhead_seconds)
    wall_seconds = serving_seconds.plus(run.start_seconds + run.stop_seconds)
    hours = wall_seconds.times(run.replicas / _SECONDS_PER_HOUR)
    return replace(
        forecast,
        serving_seconds=serving_seconds,
        wall_seconds=wall_seconds,
        replica_hours=hours,
        gpu_hours=hours.times(run.gpus_per_replica) if run.gpus_per_replica else None,
        cost=hours.times(price) if price is not None else None,
    )


def _estimate_state(state: str, population: Population, run: EngineRun | None) -> Interval:
    """Estimates the rows that end in a state, before they are generated or after.

    Both intervals hold with probability `CONFIDENCE`, so the interval of the sum holds with a higher one.
    """
    rendered, rows_left = len(population.rendered), population.rows_left
    refused = sum(row.refused_state == state for row in population.rendered)
    before = estimate_count(refused, rendered, rows_left)
    if run is None:
        return before
    if state == ACCEPTED:
        before = Interval(0, 0, 0)
    after = _estimate_generated(lambda record: record["state"] == state, population, run)
    return Interval(before.value + after.value, before.low + after.low, min(before.high + after.high, rows_left))


def _estimate_generated(
    has_property: Callable[[Mapping[str, Any]], bool], population: Population, run: EngineRun
) -> Interval:
    """Estimates the rows that are generated and whose record has a property."""
    ran, ended = len(run.records), sum(map(has_property, run.records))
    generated = estimate_count(len(population.generated_rows()), len(population.rendered), population.rows_left)
    low, value, high = (
        estimate_count(ended, ran, max(round(rows), ran)) for rows in (generated.low, generated.value, generated.high)
    )
    return Interval(value.value, low.low, min(high.high, population.rows_left))


def _is_cut_off(record: Mapping[str, Any]) -> bool:
    return record["state"] == ACCEPTED and record["finish_reason"] == CUT_OFF


def _estimate_prompt_tokens(
    population: Population, sample: Sequence[RenderedRow], run: EngineRun, random: np.random.Generator
) -> Estimate:
    """Estimates tokens per character from all rows that were begun; all rendered prompts say how many characters."""
    characters_of = {row.work.output_id: row.characters for row in population.rendered}
    records = run.records + [row.record for row in run.cut_off]
    tokens = _column(records, "prompt_tokens")
    characters = np.array(
        [row.characters for row in sample] + [characters_of[row.output_id] for row in run.cut_off], dtype=float
    )
    # The characters of refused rows are 0, so the doubt about the number of generated rows is part of the total.
    total = estimate_total(np.array(list(characters_of.values())), population.rows_left, random)
    if not characters.sum():
        return total
    weights = resample_weights(len(records), random)
    ratios = (weights @ tokens) / np.maximum(weights @ characters, 1e-9)
    ratio = Estimate(float(tokens.sum() / characters.sum()), ratios, ratios)
    return ratio.of_finite(len(records), population.rows_to_generate).times(total)


def _output_lengths(sample: Sequence[RenderedRow], run: EngineRun) -> OutputLengths:
    """Collects what is known of output lengths. Variants may have other `max_tokens`, and so other limits."""
    limits: dict[str, int] = {}
    for row in run.cut_off:
        limits[row.variant] = max(limits.get(row.variant, 0), row.limit)
    # A row that was cut off sooner than others of its variant says less than its limit: it is left out.
    cut_off = [row for row in run.cut_off if row.limit == limits[row.variant]]
    limit = np.array([limits.get(row.work.variant, 0) for row in sample] + [row.limit for row in cut_off])
    tokens = _column(run.records + [row.record for row in cut_off], "output_tokens")
    beginning = np.minimum(tokens, limit)
    return OutputLengths(
        beginning,
        is_long=tokens >= limit,
        rest=(tokens - beginning)[: len(sample)],
        limit=max(limits.values(), default=0),
        max_tokens=run.max_tokens,
    )


def _sampled_rows(sample: Sequence[RenderedRow], run: EngineRun) -> SampledRows:
    return SampledRows(
        characters=np.array([row.characters for row in sample]),
        shared_characters=np.array([row.shared_characters for row in sample]),
        prompt_tokens=_column(run.records, "prompt_tokens"),
        cached_tokens=_column(run.records, "cached_prompt_tokens"),
        output_tokens=_column(run.records, "output_tokens"),
    )


def _served_requests(run: EngineRun) -> ServedRequests:
    """Collects all requests in the order in which the engine got them, without those that it refused."""
    records = run.records + [row.record for row in run.cut_off]
    ends = np.array(end_seconds(records))
    order = [n for n in np.argsort(_column(records, "started_at"), kind="stable") if records[n]["output_tokens"]]
    uncached = _column(records, "prompt_tokens") - _column(records, "cached_prompt_tokens")
    return ServedRequests(uncached[order], _column(records, "output_tokens")[order], ends[order])


def _column(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Returns a column of the records; tokens are those of all generations and tries of a row."""
    other = f"other_{name}"
    return np.array([record[name] + record[other] if other in record else record[name] for record in records])


def _notes(population: Population, run: EngineRun, serving: Estimate | None) -> Iterator[str]:
    if len(population.rendered) == population.rows_left and len(population.generated_rows()) == len(run.records):
        yield "all rows that are left were run: counts and tokens are theirs, and no estimates"
    if serving is None:
        yield "too little was seen to tell the time, or an engine died meanwhile: run more rows, -n 32"
    if run.shared:
        yield "other jobs used the same engine meanwhile: alone the job is faster"
    if run.replicas > 1 and not run.gpus_per_replica:
        yield f"one of {run.replicas} replicas was measured: on one machine they share its memory, and are slower"

"""The forecast of `kindling preview`: its parts, and held against recorded runs; see recordings/README.md."""

import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.previewing.engine_steps import stretches
from pipelines.previewing.estimates import Known, Total, count_of, total_of, unless_too_few_differ
from pipelines.previewing.forecast import forecast_of
from pipelines.previewing.rows import Candidate, Population
from pipelines.previewing.running import Begun, Ran, cut_off_at, place_of
from pipelines.previewing.serving_time import Sample
from pipelines.previewing.step_costs import Wave, step_costs, work_done
from schemas.rows import WorkRow
from services.engines.engine import EngineInfo
from services.replicas.sessions import OVERSUBSCRIPTION
from tests.support.replayed_engine import ReplayedEngine

RECORDINGS = Path(__file__).parent / "recordings"
TRIALS, JOB_ROWS, LOOKED_AT, PREVIEWED = 40, 3000, 2000, 32
REQUESTS = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=40)


@given(REQUESTS, st.integers(1, 8), st.integers(8, 2000))
def test_a_schedule_runs_every_request_once_and_to_its_end(requests, slots, batched):
    prompts, outputs = zip(*requests, strict=True)
    seen = list(stretches(prompts, outputs, slots, batched))
    assert sorted(number for each in seen for number in each.finished) == list(range(len(requests)))
    assert sum(each.steps * each.running for each in seen) == sum(outputs)
    assert sum(each.prompt_tokens for each in seen) == sum(prompts)
    assert max(each.running for each in seen) <= slots and min(each.steps for each in seen) > 0


def test_the_costs_of_steps_are_learned_from_when_requests_end():
    draw = np.random.default_rng(0)
    prompts, outputs = draw.integers(50, 400, 64), np.append(draw.integers(5, 200, 32), draw.integers(5, 60, 32))
    true = np.array([0.05, 0.2, 0.0004])
    seconds = work_done(prompts.tolist(), outputs.tolist(), 64, 2048, (1, 64)) @ true
    costs = step_costs(Wave(prompts, outputs, seconds), 64, 2048)
    assert costs.seconds == pytest.approx(true, rel=1e-6) and costs.knots == (1, 64)
    assert costs.step(22) == pytest.approx(0.05 + 0.15 / 3)
    assert costs.noise == pytest.approx(0, abs=1e-12)


def test_requests_that_all_end_at_once_tell_no_costs():
    assert step_costs(Wave([10, 10], [5, 5], [1.0, 1.0]), 8, 2048) is None


@pytest.mark.parametrize(("count", "seen", "of"), [(0, 16, 1000), (16, 16, 1000), (1, 2, 10)])
def test_what_was_not_seen_may_still_be(count, seen, of):
    interval = count_of(count, seen, of)
    assert interval.low < interval.high and interval.low <= interval.value <= interval.high
    assert count <= interval.low and interval.high <= of - (seen - count)


def test_a_total_of_rows_that_are_all_alike_is_no_certainty():
    values, known = np.full(16, 256.0), Known(np.zeros((16, 2)), np.zeros(16))
    total = unless_too_few_differ(total_of(values, known, known, 0.0, 1000), values, 1000)
    assert total.interval().low < 0.9 * 256_000 < 256_000 == pytest.approx(total.value)
    whole = unless_too_few_differ(total_of(values, known, known, 0.0, 16), values, 16)
    assert whole.interval().low == whole.interval().high


def test_an_output_that_is_longer_than_all_seen_is_in_doubt_unless_max_tokens_forbids_it():
    tokens = np.append(np.arange(20, 50), [150, 180])
    known = Known.of([(100, length >= 64, min(length, 64)) for length in tokens.tolist()])

    def interval(most_tokens, rows):
        same = np.full(32, 100)
        return (
            Sample(same, same, same, same, tokens, most_tokens, known, known, 100.0, rows).total_by_output().interval()
        )

    cut_off, open_ended, whole = interval(180, 1000), interval(math.inf, 1000), interval(math.inf, 32)
    assert cut_off.value == open_ended.value and open_ended.high > cut_off.high
    assert whole.low == whole.high == tokens.sum()


def test_one_short_output_among_long_ones_says_nothing_of_how_short_others_are():
    tokens = np.append(np.full(15, 120), 39)
    known = Known.of([(100, length >= 43, min(length, 43)) for length in tokens.tolist()])
    begun = Known.of([(100, True, 43)] * 60 + [(100, False, 15)] * 40)
    total = total_of(tokens, known, begun, 100.0, 1000, of_token=1.0)
    assert total.value == pytest.approx(1000 * (0.6 * 120 + 0.4 * 15), rel=0.02)


@pytest.mark.parametrize(("value", "error"), [(1.0, 400.0), (0.0, 1.0), (-3.0, 1.0), (1.0, 1e-9)])
def test_an_interval_is_bounded_and_not_below_0_however_little_is_known(value, error):
    interval = Total(value, error, 1).interval()
    assert 0 <= interval.low <= max(value, 0) <= interval.high <= 3 * max(value, 0) + 7 * error


def record_of(number, tokens, state="accepted"):
    """A row's record, so far as a forecast reads it."""
    return {
        "prompt_tokens": 50, "cached_prompt_tokens": 0, "output_tokens": tokens, "state": state,
        "started_at": datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=number),
        "duration_seconds": 0.01 * tokens,
    }  # fmt: skip


def ran_of(records, begun=(), undisturbed=True):
    info = EngineInfo(8, 2048, "", {"max_num_batched_tokens": 2048}, (), {})
    return Ran(records, list(begun), undisturbed, 400, info, 0.0, 0.0, 0.0, 1, 0.0, shared=False)


def population_of(looked_at, left):
    rows = [Candidate(WorkRow(number, 0, "rows", number, 0, {}), number, characters=100) for number in range(looked_at)]
    return Population(left, 0, rows)


def test_rows_that_end_in_error_have_no_tokens():
    population, ratios, inside = population_of(400, 400), [], 0
    for seed in range(40):
        draw = random.Random(seed)
        states = ["error" if draw.random() < 0.25 else "accepted" for _ in range(400)]
        lengths = [0 if state == "error" else draw.randrange(50, 150) for state in states]
        records = [record_of(number, lengths[number], states[number]) for number in range(32)]
        begun = [
            Begun(number, record_of(number, min(lengths[number], 60), states[number]), 60) for number in range(32, 160)
        ]
        found = forecast_of(population, population.looked_at[:32], ran_of(records, begun), 1, None, 0).output_tokens
        ratios.append(found.value / sum(lengths))
        inside += found.low <= sum(lengths) <= found.high
    assert np.mean(ratios) == pytest.approx(1, abs=0.03) and inside >= 34


def test_one_row_that_is_all_of_them_is_exact_and_one_of_many_tells_nothing():
    records = [record_of(0, 20)]
    for left, tokens in ((1, (20, 20, 20)), (40, None)):
        population = population_of(left, left)
        forecast = forecast_of(population, population.looked_at[:1], ran_of(records), 1, None, 0)
        found = forecast.output_tokens
        assert (found and (found.value, found.low, found.high)) == tokens
    assert any("one row" in note for note in forecast.notes)


def test_no_more_tokens_are_forecast_than_rows_may_have():
    population, most = population_of(100, 100), 400  # of `ran_of`
    for tokens in ((most, most, most), (20, most, 30)):
        ran = ran_of([record_of(number, each) for number, each in enumerate(tokens)])
        found = forecast_of(population, population.looked_at[:3], ran, 1, None, 0).output_tokens
        assert found.low <= found.value <= found.high == 100 * most


def test_where_an_engine_died_no_time_is_told():
    draw, population = random.Random(4), population_of(100, 100)
    records = [record_of(number, draw.randrange(20, 60)) for number in range(16)]
    for undisturbed in (True, False):
        ran = ran_of(records, undisturbed=undisturbed)
        forecast = forecast_of(population, population.looked_at[:16], ran, 1, None, 0)
        assert (forecast.serving_seconds is None) != undisturbed and forecast.output_tokens
    assert any("an engine died" in note for note in forecast.notes)


def test_of_few_rows_shorter_spans_tell_the_costs():
    """Thirteen of sixteen come to their end together, as where nearly all outputs are cut off at max_tokens."""
    outputs = np.array([4, 8, 12] + [40] * 13)
    seconds = work_done([10] * 16, outputs.tolist(), 16, 2048, (1, 16)) @ np.array([0.1, 0.2, 0.0])
    assert step_costs(Wave(np.full(16, 10), outputs, seconds), 16, 2048).step(16) == pytest.approx(0.2)


def test_totals_are_inside_their_intervals_as_often_as_they_say():
    draw, inside, halves = np.random.default_rng(1), 0, {"with": [], "without": []}
    for _ in range(400):
        length = draw.normal(1000, 200, 2000)
        values = np.where(draw.random(2000) < 0.5, 256, draw.integers(1, 200, 2000)) + 0.1 * length
        rows, begun = draw.permutation(2000)[:32], draw.permutation(2000)[:48]
        begun[:32] = rows
        tokens = values - 0.1 * length
        table = np.stack([length, tokens > 64, np.minimum(tokens, 64)], axis=1)
        total = total_of(values[rows], Known.of(table[rows]), Known.of(table[begun]), length.mean(), 2000, of_token=1.0)
        inside += total.interval().low <= values.sum() <= total.interval().high
        halves["with"].append(total.error)
        nothing = Known.of(0 * table[rows])
        halves["without"].append(total_of(values[rows], nothing, nothing, 0.0, 2000).error)
    assert 0.86 <= inside / 400 <= 0.96
    assert np.median(halves["with"]) < 0.95 * np.median(halves["without"])


SEEN = ("stories", "rewrites", "gist", "feelings", "answers", "dialogue", "titles")
"""while the forecast was made"""


@pytest.mark.parametrize("name", ["letters", "keywords"])
def test_forecasts_hold_on_recorded_runs_that_were_not_seen_before(name):
    inside, half_widths = forecasts_on(name)
    assert inside >= 0.85 * TRIALS and np.median(half_widths) <= 0.15


def test_forecasts_hold_on_the_recorded_runs_that_were_seen():
    inside, half_widths = zip(*map(forecasts_on, SEEN), strict=True)
    assert sum(inside) >= 0.85 * TRIALS * len(SEEN) and min(inside) >= 0.8 * TRIALS
    assert max(map(np.median, half_widths)) <= 0.15


def forecasts_on(name):
    """How many of 40 forecasts' intervals of the serving time held it, and half of each one's width."""
    recorded = Recorded(name)
    trials = [recorded.trial(seed) for seed in range(TRIALS)]
    inside = sum(interval.low <= seconds <= interval.high for interval, seconds in trials)
    return inside, [(interval.high - interval.low) / 2 / interval.value for interval, _ in trials]


class Recorded:
    """A recorded run, of whose rows jobs are drawn; see recordings/README.md."""

    def __init__(self, name):
        rows = pq.read_table(RECORDINGS / f"{name}-rows.parquet")
        steps = pq.read_table(RECORDINGS / f"{name}-steps.parquet")
        self.rows = {column: rows[column].to_numpy() for column in rows.column_names}
        settings = {key.decode(): int(value) for key, value in rows.schema.metadata.items() if key != b"ARROW:schema"}
        self.slots, self.max_tokens = settings.pop("max_num_seqs"), settings.pop("max_tokens")
        self.batched_tokens = settings["max_num_batched_tokens"]
        self.info = EngineInfo(self.slots, 2048, "", {**settings, "enable_prefix_caching": True}, (), {})
        columns = (steps[column].to_numpy() for column in ("seconds", "running", "prompt_tokens"))
        self.engine = ReplayedEngine(*columns, self.slots, self.batched_tokens)

    def trial(self, seed):
        """The forecast of a job's serving time from a preview, and how long the job then takes."""
        draw = random.Random(seed)
        job = np.array(draw.choices(range(len(self.rows["output_tokens"])), k=JOB_ROWS))
        looked_at = [self._candidate(number, job[number]) for number in sorted(draw.sample(range(JOB_ROWS), LOOKED_AT))]
        population = Population(JOB_ROWS, 0, looked_at)
        drawn = population.draw(PREVIEWED, seed)
        ids = [each.work.output_id for each in drawn] + [each.work.output_id for each in population.others(drawn, seed)]
        cuts = [cut_off_at(self.max_tokens, place_of(number)) for number in range(len(ids) - PREVIEWED)]
        most = [self.max_tokens] * PREVIEWED + cuts
        begun = self._begun(job[ids], most)
        records = self._run(job[ids[:begun]], most[:begun], draw)
        filling = [Begun(*each) for each in zip(ids[PREVIEWED:begun], records[PREVIEWED:], cuts, strict=False)]
        ran = Ran(records[:PREVIEWED], filling, True, self.max_tokens, self.info, 0.0, 0.0, 0.0, 1, 0.0, shared=False)
        forecast = forecast_of(population, drawn, ran, 1, None, seed)
        return forecast.serving_seconds, self._ends(job, self.rows["output_tokens"][job], draw).max()

    def _begun(self, rows, most_tokens):
        """How many of the rows are begun before the first ones, which were asked for, have come to their end."""
        done, left = 0, set(range(PREVIEWED))
        for each in self._stretches(rows, np.minimum(self.rows["output_tokens"][rows], most_tokens)):
            done, left = done + len(each.finished), left.difference(each.finished)
            if not left:
                break
        return min(done + math.ceil(self.slots * OVERSUBSCRIPTION), len(rows))

    def _stretches(self, rows, output_tokens):
        return stretches(self._uncached(rows), output_tokens.tolist(), self.slots, self.batched_tokens)

    def _uncached(self, rows):
        return (self.rows["prompt_tokens"][rows] - self.rows["cached_tokens"][rows]).tolist()

    def _run(self, rows, most_tokens, draw):
        tokens = np.minimum(self.rows["output_tokens"][rows], most_tokens)
        began, counts = datetime.now(UTC), {name: self.rows[name][rows] for name in ("prompt_tokens", "cached_tokens")}
        return [
            {
                "prompt_tokens": counts["prompt_tokens"][number],
                "cached_prompt_tokens": counts["cached_tokens"][number],
                "output_tokens": tokens[number],
                "started_at": began + timedelta(microseconds=number),
                "duration_seconds": end,
                "state": "accepted",
                "attempts": 1,
            }
            for number, end in enumerate(self._ends(rows, tokens, draw))
        ]

    def _ends(self, rows, output_tokens, draw):
        return self.engine.run(self._uncached(rows), output_tokens.tolist(), draw.randrange(1 << 20))

    def _candidate(self, number, row):
        work = WorkRow(number, 0, "rows", number, 0, {})
        characters, shared = (int(self.rows[column][row]) for column in ("prompt_characters", "shared_characters"))
        return Candidate(work, number, characters=characters, shared=shared)

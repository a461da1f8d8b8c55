"""The forecast of `kindling preview`, held against recorded runs; see recordings/README.md."""

import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.previewing.engine_steps import simulate_steps
from pipelines.previewing.estimates import Interval
from pipelines.previewing.forecast import make_forecast
from pipelines.previewing.rows import Population, RenderedRow
from pipelines.previewing.running import CutOffRow, EngineRun, limit_place, token_limit
from schemas.rows import WorkRow
from schemas.sweep import DEFAULT_VARIANT
from services.engines.engine import EngineInfo
from services.replicas.sessions import OVERSUBSCRIPTION
from tests.support.replayed_engine import ReplayedEngine

RECORDINGS = Path(__file__).parent / "recordings"
NAMES = ("stories", "rewrites", "gist", "feelings", "answers", "dialogue", "titles", "letters", "keywords")
TRIALS, JOB_ROWS, RENDERED, PREVIEWED = 20, 3000, 2000, 32


def record_of(number, tokens, state="accepted"):
    """The columns of a row's record that a forecast reads."""
    return {
        "prompt_tokens": 50, "cached_prompt_tokens": 0, "output_tokens": tokens, "state": state,
        "finish_reason": "stop",
        "started_at": datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=number),
        "duration_seconds": 0.01 * tokens,
    }  # fmt: skip


def run_of(records, cut_off=(), undisturbed=True, **settings):
    info = EngineInfo(8, 2048, "", {"max_num_batched_tokens": 2048, **settings}, (), {})
    return EngineRun(records, list(cut_off), undisturbed, 400, info, 0.0, 0.0, 0.0, 1, 0.0, shared=False)


def population_of(rendered, rows_left):
    rows = [
        RenderedRow(WorkRow(number, 0, "rows", number, 0, {}), number, characters=100) for number in range(rendered)
    ]
    return Population(rows_left, 0, rows)


def forecast_of(population, run):
    return make_forecast(population, population.rendered[: len(run.records)], run, 1, None, 0)


def test_rows_that_end_in_error_have_no_tokens():
    population, ratios, inside = population_of(400, 400), [], 0
    for seed in range(40):
        draw = random.Random(seed)
        states = ["error" if draw.random() < 0.25 else "accepted" for _ in range(400)]
        lengths = [0 if state == "error" else draw.randrange(50, 150) for state in states]
        records = [record_of(number, lengths[number], states[number]) for number in range(32)]
        cut_off = [
            CutOffRow(number, DEFAULT_VARIANT, record_of(number, min(lengths[number], 60), states[number]), 60)
            for number in range(32, 160)
        ]
        tokens = forecast_of(population, run_of(records, cut_off)).output_tokens
        ratios.append(tokens.value / sum(lengths))
        inside += tokens.low <= sum(lengths) <= tokens.high
    assert np.mean(ratios) == pytest.approx(1, abs=0.03) and inside >= 34


def test_one_row_that_is_all_of_them_is_exact_and_one_of_many_tells_nothing():
    run = run_of([record_of(0, 20)])
    assert forecast_of(population_of(1, 1), run).output_tokens == Interval(20, 20, 20)
    forecast = forecast_of(population_of(40, 40), run)
    assert forecast.output_tokens is None and any("one row" in note for note in forecast.notes)


def test_tokens_are_those_of_all_generations_and_tries():
    run = run_of([{**record_of(0, 20), "other_output_tokens": 30, "other_prompt_tokens": 100}])
    forecast = forecast_of(population_of(1, 1), run)
    assert forecast.output_tokens == Interval(50, 50, 50) and forecast.prompt_tokens == Interval(150, 150, 150)


def test_the_texts_that_are_cut_off_are_forecast():
    records = [
        {
            **record_of(n, 400),
            "finish_reason": "length" if n < 12 else "stop",
            "state": "error" if n < 4 else "accepted",
        }
        for n in range(16)
    ]
    cut_off = forecast_of(population_of(100, 100), run_of(records)).cut_off
    assert 8 <= cut_off.low < cut_off.value == 50 < cut_off.high < 100
    assert forecast_of(population_of(16, 16), run_of(records)).cut_off == Interval(8, 8, 8)


def test_no_more_tokens_are_forecast_than_rows_may_have():
    max_tokens = run_of([]).max_tokens
    for lengths in ((max_tokens,) * 3, (20, max_tokens, 30)):
        run = run_of([record_of(number, tokens) for number, tokens in enumerate(lengths)])
        tokens = forecast_of(population_of(100, 100), run).output_tokens
        assert tokens.low < tokens.value <= tokens.high <= 100 * max_tokens
    assert tokens.value < tokens.high


def test_where_an_engine_died_no_time_is_told():
    draw = random.Random(4)
    records = [record_of(number, draw.randrange(20, 60)) for number in range(16)]
    for undisturbed in (True, False):
        forecast = forecast_of(population_of(100, 100), run_of(records, undisturbed=undisturbed))
        assert (forecast.serving_seconds is None) != undisturbed and forecast.output_tokens
    assert any("an engine died" in note for note in forecast.notes)


def test_where_variants_have_other_limits_each_counts_up_to_its_own():
    """Half of the rows may have 30 tokens and are all as long, half may have 300 and have 40 or 200."""
    rows = [RenderedRow(WorkRow(n, 0, "rows", n, 0, {}, variant="ab"[n % 2]), n, characters=100) for n in range(400)]
    lengths = [30 if n % 2 == 0 else (40 if n % 4 == 1 else 200) for n in range(400)]
    records = [record_of(n, lengths[n]) for n in range(32)]
    cut_off = [
        CutOffRow(n, "ab"[n % 2], record_of(n, min(lengths[n], limit)), limit)
        for n in range(32, 160)
        for limit in [(10, 100)[n % 2]]
    ]
    tokens = forecast_of(Population(400, 0, rows), run_of(records, cut_off)).output_tokens
    assert tokens.value == pytest.approx(sum(lengths), rel=0.05)


def test_forecasts_hold_on_recorded_runs():
    """Of the nine recordings none is held out: the parts of the forecast were chosen on all of them."""
    inside, half_widths = {}, {}
    for name in NAMES:
        recorded = RecordedRun(name)
        trials = [recorded.trial(seed) for seed in range(TRIALS)]
        for figure in ("serving_seconds", "output_tokens", "prompt_tokens"):
            intervals = [(getattr(forecast, figure), true[figure]) for forecast, true in trials]
            inside[figure, name] = sum(interval.low <= value <= interval.high for interval, value in intervals)
            widths = [(interval.high - interval.low) / 2 / interval.value for interval, _ in intervals]
            half_widths[figure, name] = np.median(widths)
    assert min(inside.values()) >= 0.8 * TRIALS, inside
    assert sum(inside.values()) >= 0.9 * TRIALS * len(inside), inside
    assert max(half_widths.values()) <= 0.17, half_widths
    seconds = [width for (figure, _), width in half_widths.items() if figure == "serving_seconds"]
    assert max(seconds) <= 0.15, half_widths


class RecordedRun:
    """A recorded run, of whose rows jobs are drawn; see recordings/README.md."""

    def __init__(self, name):
        rows = pq.read_table(RECORDINGS / f"{name}-rows.parquet")
        steps = pq.read_table(RECORDINGS / f"{name}-steps.parquet")
        self.rows = {column: rows[column].to_numpy() for column in rows.column_names}
        settings = {key.decode(): int(value) for key, value in rows.schema.metadata.items() if key != b"ARROW:schema"}
        self.slots, self.max_tokens = settings.pop("max_num_seqs"), settings.pop("max_tokens")
        self.tokens_per_step = settings["max_num_batched_tokens"]
        self.info = EngineInfo(self.slots, 2048, "", {**settings, "enable_prefix_caching": True}, (), {})
        columns = (steps[column].to_numpy() for column in ("seconds", "running", "prompt_tokens"))
        self.engine = ReplayedEngine(*columns, self.slots, self.tokens_per_step)

    def trial(self, seed):
        """Forecasts a job from a preview, then runs the job; returns the forecast and the true figures."""
        draw = random.Random(seed)
        job = np.array(draw.choices(range(len(self.rows["output_tokens"])), k=JOB_ROWS))
        rendered = [self._rendered(output_id, job[output_id]) for output_id in self._sample(draw)]
        population = Population(JOB_ROWS, 0, rendered)
        drawn = population.draw(PREVIEWED, seed)
        ids = [row.work.output_id for row in [*drawn, *population.fillers(drawn, seed)]]
        limits = [token_limit(self.max_tokens, limit_place(number)) for number in range(len(ids) - PREVIEWED)]
        max_tokens = [self.max_tokens] * PREVIEWED + limits
        begun = self._count_begun(job[ids], max_tokens)
        records = self._records(job[ids[:begun]], max_tokens[:begun], draw)
        fillers = zip(ids[PREVIEWED:begun], records[PREVIEWED:], limits, strict=False)
        cut_off = [CutOffRow(output_id, DEFAULT_VARIANT, record, limit) for output_id, record, limit in fillers]
        run = EngineRun(
            records[:PREVIEWED], cut_off, True, self.max_tokens, self.info, 0.0, 0.0, 0.0, 1, 0.0, shared=False
        )
        forecast = make_forecast(population, drawn, run, 1, None, seed)
        return forecast, {
            "serving_seconds": self._ends(job, self.rows["output_tokens"][job], draw).max(),
            "output_tokens": self.rows["output_tokens"][job].sum(),
            "prompt_tokens": self.rows["prompt_tokens"][job].sum(),
        }

    def _sample(self, draw):
        return sorted(draw.sample(range(JOB_ROWS), RENDERED))

    def _count_begun(self, rows, max_tokens):
        """Counts the rows that are begun before the first ones, which were asked for, have ended."""
        done, left = 0, set(range(PREVIEWED))
        lengths = np.minimum(self.rows["output_tokens"][rows], max_tokens)
        for group in simulate_steps(self._uncached(rows), lengths.tolist(), self.slots, self.tokens_per_step):
            done, left = done + len(group.finished), left.difference(group.finished)
            if not left:
                break
        return min(done + math.ceil(self.slots * OVERSUBSCRIPTION), len(rows))

    def _uncached(self, rows):
        return (self.rows["prompt_tokens"][rows] - self.rows["cached_tokens"][rows]).tolist()

    def _records(self, rows, max_tokens, draw):
        lengths = np.minimum(self.rows["output_tokens"][rows], max_tokens)
        began = datetime(2026, 1, 2, tzinfo=UTC)
        return [
            {
                "prompt_tokens": self.rows["prompt_tokens"][row],
                "cached_prompt_tokens": self.rows["cached_tokens"][row],
                "output_tokens": length,
                "started_at": began + timedelta(microseconds=number),
                "duration_seconds": end,
                "state": "accepted",
                "finish_reason": "stop",
            }
            for number, (row, length, end) in enumerate(
                zip(rows, lengths, self._ends(rows, lengths, draw), strict=True)
            )
        ]

    def _ends(self, rows, lengths, draw):
        return self.engine.run(self._uncached(rows), lengths.tolist(), draw.randrange(1 << 20))

    def _rendered(self, output_id, row):
        work = WorkRow(output_id, 0, "rows", output_id, 0, {})
        characters, shared = (int(self.rows[column][row]) for column in ("prompt_characters", "shared_characters"))
        return RenderedRow(work, output_id, characters=characters, shared_characters=shared)

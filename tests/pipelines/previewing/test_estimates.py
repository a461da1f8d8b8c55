"""Estimates of counts and output lengths from sampled rows, and the intervals around them."""

import numpy as np
import pytest

from pipelines.previewing.estimates import RESAMPLES, Estimate, estimate_count, estimate_total
from pipelines.previewing.output_lengths import OutputLengths


def random():
    return np.random.default_rng(0)


def lengths_of(finished, cut_off=(), limit=0, max_tokens=400):
    """Lengths of finished outputs, and of others that were cut off at the limit."""
    finished, cut_off = np.array(finished), np.minimum(np.array(cut_off, dtype=int), limit)
    tokens = np.append(finished, cut_off)
    beginning = np.minimum(tokens, limit)
    return OutputLengths(beginning, tokens >= limit, finished - beginning[: len(finished)], limit, max_tokens)


@pytest.mark.parametrize(("count", "seen", "rows"), [(0, 16, 1000), (16, 16, 1000), (1, 2, 10)])
def test_what_was_not_seen_may_still_be(count, seen, rows):
    interval = estimate_count(count, seen, rows)
    assert interval.low < interval.high and interval.low <= interval.value <= interval.high
    assert count <= interval.low and interval.high <= rows - (seen - count)


@pytest.mark.parametrize("count", [0, 3, 10, 16])
def test_resampled_rows_give_a_share_the_interval_of_clopper_and_pearson(count):
    shares = lengths_of([1] * count + [0] * (16 - count), max_tokens=1)
    resampled, exact = shares.estimate_mean(10**9, random()).interval(), estimate_count(count, 16, 10**9)
    assert (resampled.low, resampled.high) == pytest.approx((exact.low / 1e9, exact.high / 1e9), abs=0.03)


def test_outputs_that_are_all_alike_are_no_certainty():
    mean = lengths_of([256] * 16).estimate_mean(1000, random()).interval()
    assert mean.low < 0.9 * 256 < 256 == mean.value < mean.high
    whole = lengths_of([256] * 16).estimate_mean(16, random()).interval()
    assert whole.low == whole.value == whole.high


def test_an_output_that_is_longer_than_all_seen_is_in_doubt_unless_max_tokens_forbids_it():
    tokens = [*range(20, 50), 150, 180]

    def interval(max_tokens, rows):
        return lengths_of(tokens, limit=64, max_tokens=max_tokens).estimate_mean(rows, random()).interval()

    cut_off, open_ended, whole = interval(180, 1000), interval(1000, 1000), interval(1000, 32)
    assert cut_off.value == open_ended.value and open_ended.high > cut_off.high
    assert whole.low == whole.high == pytest.approx(np.mean(tokens))


def test_one_short_output_among_long_ones_says_nothing_of_how_short_others_are():
    lengths = lengths_of([120] * 15 + [39], [43] * 60 + [15] * 40, limit=43)
    mean = lengths.estimate_mean(1000, random())
    long, short = (15 + 60) * 120, 39 + 40 * 15
    assert mean.value == pytest.approx((long + short) / (16 + 100))


def test_where_only_rows_that_were_cut_off_are_long_outputs_may_be_as_long_as_max_tokens():
    mean = lengths_of([10, 12], [64] * 6, limit=64).estimate_mean(1000, random()).interval()
    assert mean.value >= (10 + 12 + 6 * 64) / 8 and mean.high > 200


@pytest.mark.parametrize(("value", "resamples"), [(1.0, -400.0), (0.0, -1.0), (1.0, 400.0), (1.0, 1.0)])
def test_an_interval_holds_its_figure_and_nothing_below_0(value, resamples):
    resamples = np.full(RESAMPLES, resamples)
    interval = Estimate(value, resamples, resamples).interval()
    assert 0 <= interval.low <= value <= interval.high


def test_totals_of_a_sample_are_inside_their_intervals_as_often_as_they_say():
    draw, inside = random(), 0
    for _ in range(300):
        values = draw.exponential(size=1000)
        interval = estimate_total(values[:400], 1000, draw).interval()
        inside += interval.low <= values.sum() <= interval.high
        assert (interval.high - interval.low) / 2 / interval.value < 0.09
    assert 0.86 <= inside / 300 <= 0.95


def test_means_are_inside_their_intervals_as_often_as_they_say_and_rows_cut_off_make_them_narrower():
    draw, inside, widths = random(), 0, {"with": [], "without": []}
    for _ in range(400):
        tokens = np.where(draw.random(2000) < 0.5, 256, draw.integers(1, 200, 2000))
        for name, cut_off in (("with", tokens[32:100]), ("without", ())):
            lengths = lengths_of(tokens[:32], cut_off, limit=64 if name == "with" else 0, max_tokens=256)
            interval = lengths.estimate_mean(2000, draw).interval()
            widths[name].append(interval.high - interval.low)
            inside += interval.low <= tokens.mean() <= interval.high
    assert 0.88 <= inside / 800 <= 0.98
    assert np.median(widths["with"]) < 0.95 * np.median(widths["without"])

"""The rows of a review: groups by rule, spread over emotions and variants, with equal chances inside a group."""

import random
from collections import Counter

import pytest

from pipelines.reviewing.sample import _choose, draw_sample
from schemas.errors import JobError, RunError
from schemas.outcomes import OTHER_REASONS
from schemas.rows import ACCEPTED, REJECTED
from services.storage.store import ShardStore
from tests.support.reviews import reviewed_run

EMOTIONS = ("joy", "fear", "fear", "fear")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """300 accepted rows, 100 rejected by two rules, 3 by three rules of one row, 5 without a text."""
    rules = {"emotion_word": 80, "repetition": 20, "rare_a": 1, "rare_b": 1, "rare_c": 1}
    folder = tmp_path_factory.mktemp("runs") / "run"
    return ShardStore(reviewed_run(folder, 300, rules, blank=5, changes=lambda i: {"emotion": EMOTIONS[i % 4]}))


def test_half_are_accepted_rows_and_rules_share_the_other_half(store):
    sample = draw_sample(store, 80, 0)
    rejected = [(REJECTED, rule) for rule in ("emotion_word", "rare_a", "rare_b", "rare_c", "repetition")]
    assert sample.sizes == {(ACCEPTED, ""): 300, **dict(zip(rejected, (80, 1, 1, 1, 20), strict=True))}
    drawn = Counter(group for group, _ in sample.rows)
    assert drawn == {(ACCEPTED, ""): 40, **dict(zip(rejected, (19, 1, 1, 1, 18), strict=True))}
    assert sample.without_text == {"near_duplicate": 5}
    for group, row in sample.rows:
        assert (row["state"], row["reason"]) == group and row["text"].strip()
    # Each emotion has its share of a group: one of four rows asks for joy.
    joyful = Counter(group for group, row in sample.rows if row["emotion"] == "joy")
    assert joyful[ACCEPTED, ""] == 10 and joyful[REJECTED, "emotion_word"] in (4, 5)


def test_the_seed_draws_the_same_rows(store):
    texts = [[row["text"] for _, row in draw_sample(store, 60, seed).rows] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0])) == 60


def test_rare_rules_are_drawn_from_together(store):
    sample = draw_sample(store, 30, 0)
    assert sample.sizes == {
        (ACCEPTED, ""): 300, (REJECTED, "emotion_word"): 80, (REJECTED, "repetition"): 20, (REJECTED, OTHER_REASONS): 3,
    }  # fmt: skip
    assert Counter(group for group, _ in sample.rows)[REJECTED, OTHER_REASONS] == 3
    assert len(draw_sample(store, 2, 0).rows) == 2


def test_all_rows_are_drawn_where_there_are_no_more(store, tmp_path):
    assert len(draw_sample(store, 1000, 0).rows) == 403
    few = draw_sample(ShardStore(reviewed_run(tmp_path / "few", 3, {"repetition": 40})), 20, 0)
    assert Counter(group[0] for group, _ in few.rows) == {ACCEPTED: 3, REJECTED: 17}
    alone = draw_sample(ShardStore(reviewed_run(tmp_path / "alone", 30, {})), 20, 0)
    assert Counter(group[0] for group, _ in alone.rows) == {ACCEPTED: 20}


def test_each_row_of_a_group_has_the_same_chance():
    cells = {(ACCEPTED, "", "default", "p", emotion): rows for emotion, rows in (("a", 1), ("b", 5), ("c", 11))}
    group = (ACCEPTED, "")
    drawn: Counter = Counter()
    for seed in range(3000):
        chosen = _choose(cells, {group: group}, {group: 6}, random.Random(seed))
        numbers = [(cell, number) for cell, numbers in chosen.items() for number in numbers]
        assert len(numbers) == 6
        drawn.update(numbers)
    assert len(drawn) == 17
    expected = 3000 * 6 / 17
    assert all(abs(count - expected) < 6 * (expected * 11 / 17) ** 0.5 for count in drawn.values())


def test_runs_and_numbers_that_draw_nothing(store, tmp_path):
    with pytest.raises(JobError, match="-n = 1: too few"):
        draw_sample(store, 1, 0)
    blank = ShardStore(reviewed_run(tmp_path / "blank", 0, {}, blank=4))
    with pytest.raises(RunError, match="no committed row with a text"):
        draw_sample(blank, 10, 0)

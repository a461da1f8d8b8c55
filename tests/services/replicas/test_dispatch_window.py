"""The order in which the dispatch window gives out rows, and the prefixes of recipes."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes.babylm import BabylmStory
from pipelines.recipes.messages import Messages
from pipelines.recipes.template import Template
from schemas.rows import WorkRow
from services.replicas import dispatch_window
from services.replicas.dispatch_window import MAX_BATCH_CHARACTERS, MAX_WINDOW_CHARACTERS, DispatchWindow


def rows(prefixes):
    return iter([WorkRow(number, 0, "s", number, 0, {}, prefix=prefix) for number, prefix in enumerate(prefixes)])


def drained(window, replica=0, max_rows=1):
    taken = []
    while batch := window.take(replica, max_rows):
        taken += batch
    return taken


def test_rows_of_one_prefix_follow_each_other():
    window = DispatchWindow(rows("abcabcabc"), size=9)
    assert [row.prefix for row in drained(window, max_rows=2)] == list("aaabbbccc")
    assert window.is_empty


def test_without_prefixes_rows_come_in_input_order():
    assert [row.output_id for row in drained(DispatchWindow(rows([""] * 100), size=16), max_rows=7)] == list(range(100))


def test_replicas_take_different_prefixes():
    window = DispatchWindow(rows("ababababab"), size=10)
    taken = [(replica, row.prefix) for _ in range(5) for replica in (0, 1) for row in window.take(replica, 1)]
    assert set(taken) == {(0, "a"), (1, "b")}


def test_more_replicas_than_prefixes_share_them():
    window = DispatchWindow(rows("aaaaaa"), size=6)
    assert [len(window.take(replica, 2)) for replica in range(3)] == [2, 2, 2]


def test_a_common_prefix_does_not_starve_the_others():
    window = DispatchWindow(rows(["a", "b"] + ["a"] * 1000), size=8)
    ids = [row.output_id for row in drained(window)]
    assert ids.index(1) < 10


def test_rows_of_a_dead_replica_come_first_and_its_prefix_is_free():
    window = DispatchWindow(rows("aabb"), size=4)
    batch = window.take(0, 1)
    window.put_back(batch)
    window.release(0)
    assert not window.is_empty
    assert window.take(1, 2)[0] is batch[0]
    assert {row.prefix for row in drained(window, 1)} == {"a", "b"} or window.is_empty


def test_no_more_rows_are_planned_than_it_looks_ahead():
    planned = count()
    endless = (WorkRow(number, 0, "s", number, 0, {}) for number in planned)
    window = DispatchWindow(endless, size=32)
    for _ in range(10):
        window.take(0, 3)
    assert next(planned) <= 30 + 32


def test_large_rows_are_held_and_sent_by_their_size():
    planned = count()
    text = "x" * (MAX_BATCH_CHARACTERS // 8)
    large = (WorkRow(number, 0, "s", number, 0, {"turns": [{"text": text}]}) for number in planned)
    window = DispatchWindow(large, size=1000)
    given_out = [window.take(0, 64) for _ in range(20)]
    assert [[row.output_id for row in batch] for batch in given_out[:2]] == [list(range(8)), list(range(8, 16))]
    assert next(planned) <= 20 * 8 + MAX_WINDOW_CHARACTERS // len(text)
    window.put_back([row for batch in given_out for row in batch])
    assert window.take(1, 64) == given_out[0]


def test_a_row_larger_than_any_limit_is_sent_alone(monkeypatch):
    monkeypatch.setattr(dispatch_window, "MAX_WINDOW_CHARACTERS", 1)
    monkeypatch.setattr(dispatch_window, "MAX_BATCH_CHARACTERS", 1)
    window = DispatchWindow((WorkRow(number, 0, "s", number, 0, {"text": "xx"}) for number in range(3)), size=9)
    assert [row.output_id for row in drained(window, max_rows=9)] == [0, 1, 2] and window.is_empty


@given(
    st.lists(st.sampled_from("abcde"), max_size=200),
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.booleans()), min_size=1),
)
def test_every_row_is_given_exactly_once(prefixes, size, steps):
    window = DispatchWindow(rows(prefixes), size)
    given_out = []
    for replica, max_rows, dies in steps:
        batch = window.take(replica, max_rows)
        assert len(batch) <= max_rows
        if dies:
            window.put_back(batch)
            window.release(replica)
        else:
            given_out += batch
    given_out += drained(window, 9, 5)
    assert sorted(row.output_id for row in given_out) == list(range(len(prefixes)))
    assert window.is_empty


@pytest.mark.parametrize(
    ("template", "values", "prefix"),
    [
        ("Task. {{ topic }}: {{ text }}", {"topic": "sea", "text": "x"}, "sea"),
        ("{% if style %}{{ text }}{% endif %}", {"style": 3, "text": "x"}, "3"),
        ("the same for all", {}, ""),
    ],
)
def test_a_template_is_told_apart_by_what_stands_first_in_it(tmp_path, template, values, prefix):
    path = tmp_path / "prompt.jinja"
    path.write_text(template)
    assert Template(str(path)).prefix(values) == prefix


def test_recipes_tell_prompts_apart_by_what_they_begin_with():
    story = BabylmStory("p3")
    assert story.prefix({"context": "x", "emotion": ["joy", "love"]}) == story.prefix({"emotion": "joy"}) == "joy"
    assert {story.prefix(values) for values in ({}, {"emotion": []}, {"emotion": 3})} == {""}  # rows without a prompt
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert Messages().prefix({"messages": chat}) == "Be brief."
    assert [Messages().prefix({"messages": m}) for m in (chat[1:], [], None, ["x"])] == ["", "", "", ""]


def test_prefixes_that_are_done_are_forgotten():
    window = DispatchWindow(rows(map(str, range(1000))), size=8)
    assert len(drained(window, max_rows=2)) == 1000
    assert len(window._replicas_at) <= 1

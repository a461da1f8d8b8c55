"""Texts and rows that say almost the same as an earlier one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inputs.near_duplicates import NearDuplicates, find_near_duplicates
from pipelines.inputs.reader import InputReader
from pipelines.recipes.alpaca import AlpacaRewrite
from schemas.job import Input
from schemas.rows import rule_of
from tests.support.files import write_jsonl

POEM, LETTER = "Write a poem about rain.", "Write a letter to your aunt."


def firsts(*texts, **settings):
    seen = NearDuplicates(**settings)
    return [seen.find_or_add(text, number) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (POEM, "write a  POEM - about rain"),
        ("Write a short letter to a friend who has just moved to another town by the sea.",
         "Write a short letter to a friend who has just moved to another city by the sea."),
        ("", " "),
    ],
)  # fmt: skip
def test_texts_that_say_almost_the_same(one, other):
    assert firsts(one, "Something else altogether.", other) == [None, None, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Describe this feeling. You won a race.", "Describe this feeling. You lost your keys."),
        ("The dog bites the man.", "The man bites the dog."),
        ("What is 12 + 7?", "What is 12 - 7?"),
        (POEM, LETTER),
    ],
)
def test_texts_that_only_look_alike(one, other):
    assert firsts(one, other) == [None, None]


def test_a_text_is_told_the_first_one_that_it_is_like():
    words = [f"word{i}" for i in range(40)]
    changed = [" ".join([*words[:-1], end]) for end in ("one", "two", "three")]
    assert firsts(*changed, POEM, POEM) == [None, 0, 0, None, 3]


def test_no_more_texts_are_kept_than_it_is_told():
    assert firsts(POEM, LETTER, LETTER, POEM, max_texts=1) == [None, None, None, 0]


@given(st.lists(st.text(st.sampled_from("ab \u00e9-"), max_size=6), max_size=12))
def test_a_text_that_is_there_again_is_always_found(texts):
    seen = NearDuplicates()
    found = [seen.find_or_add(text, number) for number, text in enumerate([*texts, *texts])]
    assert None not in found[len(texts) :]
    assert all(first is None or first < number for number, first in enumerate(found))


# Rows


RECIPE = AlpacaRewrite("v3", "drawn")


def answer(instruction, given="", output="It rains."):
    return {"instruction": instruction, "input": given, "output": output}


def near_duplicates(*files, **section):
    reader = InputReader(Input(path=[str(file) for file in files], **section), list(RECIPE.fields))
    return find_near_duplicates(reader, RECIPE)


@pytest.fixture
def files(tmp_path):
    """Two files; the second has a near-duplicate of each file's first row."""
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_jsonl(first, [answer(POEM), answer(LETTER), answer("Name a bird.", "It swims.")])
    write_jsonl(second, [answer("Count to ten."), answer("write a poem about rain"), answer("Count to  TEN!")])
    return first, second


def test_a_row_is_told_which_one_it_is_like_by_source_and_number(files):
    first, _ = files
    expected = {4: 0, 5: 3}
    assert near_duplicates(*files) == near_duplicates(*files) == expected
    # Rows that are added at the end, and a limit, change nothing for those before.
    assert near_duplicates(*files, limit=5) == {4: expected[4]}
    assert near_duplicates(first) == {}


def test_the_same_instruction_for_another_input_is_another_row(tmp_path):
    file = tmp_path / "a.jsonl"
    inputs = ["The cat sat on the mat.", "Rain is on its way.", "the CAT sat on the mat"]
    write_jsonl(file, [answer("Name the verb.", given) for given in inputs])
    assert near_duplicates(file) == {2: 0}


def test_a_long_instruction_with_short_inputs_is_a_row_each(tmp_path):
    file = tmp_path / "a.jsonl"
    task = "Say of which kind the animal is: a bird, a fish, an insect or a mammal; " * 4
    write_jsonl(file, [answer(task, animal) for animal in ("sparrow", "trout", "ant", "Sparrow!")])
    assert near_duplicates(file) == {3: 0}


def test_a_row_that_is_refused_or_unreadable_stands_for_no_other(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [
        answer(POEM, output=""), answer(POEM, output="<nooutput>"), answer(POEM, given=7), "no JSON",
        answer(POEM), answer(POEM, output="as an AI language model, I cannot"), answer(None), answer(POEM),
    ]  # fmt: skip
    write_jsonl(file, rows)
    assert near_duplicates(file) == {7: 4}


def test_a_row_of_another_emotion_than_a_positive_one_stands_for_no_other(tmp_path):
    file = tmp_path / "a.jsonl"
    write_jsonl(file, [{**answer(POEM), "emotion": emotion} for emotion in ("anger", "glee", "joy", "love")])
    recipe = AlpacaRewrite("v3", "given")
    reader = InputReader(Input(path=str(file)), list(recipe.fields))
    assert find_near_duplicates(reader, recipe) == {3: 2}


def test_what_the_rules_of_a_reason_are():
    assert rule_of("near_duplicate of row 7 of data/a row of b.json") == "near_duplicate"
    assert [rule_of(reason) for reason in ("url", "", "because")] == ["url", "", "because"]


def test_no_row_of_the_demo_is_like_another():
    from importlib.resources import files as package_files

    path = package_files("pipelines") / "data" / "demo_instructions.jsonl"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 24
    assert near_duplicates(path) == {}

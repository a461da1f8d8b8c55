"""Reference sets: what counts as contained, and files of each kind."""

import json
import pickle

import pytest

from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_control.reference_files import read_reference_sets, reference_contents
from pipelines.quality_control.reference_sets import ReferenceSets
from schemas.errors import JobError
from schemas.quality import Quality
from schemas.rows import Prompt
from tests.support.files import write_jsonl

LONG = "The quick brown fox jumps over the lazy dog while seven wizards quietly watch from a hill"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He said: who should Derek hug, after SHOCKING Richard?!", True),
        ("Who should Derek hug after shocking Rich?", False),
        ("Who should Derek hug", False),
        (f"Look! {LONG.lower()}.", True),
        (" ".join(LONG.split()[2:15]), True),  # 13 words of it
        (" ".join(LONG.split()[2:14]), False),  # 12 words
        ("", False),
    ],
)
def test_a_short_text_counts_as_a_whole_and_a_long_one_by_13_words(text, found):
    sets = pickle.loads(pickle.dumps(ReferenceSets({"b": ["Who should Derek hug after shocking Richard?", LONG]})))
    assert bool(sets.find(text)) == found


def test_the_first_set_that_has_a_text_gives_its_name():
    sets = ReferenceSets(
        {"a": ["one two three four five six"], "b": ["One, two: three four five."], "c": ["too short"]}
    )
    assert sets.find("zero one two three four five six") == ("a", "one two three four five six")
    assert sets.find("zero one two three four five") == ("b", "one two three four five")
    assert (sets.searched, sets.too_short) == ({"a": 1, "b": 1}, {"c": 1})


def test_texts_are_read_from_files_of_each_kind_at_any_depth(tmp_path):
    (tmp_path / "prompts.json").write_text(
        json.dumps({"joy": ["Instruction: Write a poem about the spring. Input: The river wakes up and sings."]})
    )
    write_jsonl(
        tmp_path / "emo.jsonl", [{"scenario": "Her cake fell on the floor.", "choices": ["She laughed about it all."]}]
    )
    (tmp_path / "lines.txt").write_text("Nobody ever leaves the old mill.\n")
    sets = read_reference_sets(
        {
            "prompts": str(tmp_path / "prompts.json"),
            "others": [str(tmp_path / "emo.jsonl"), str(tmp_path / "lines.txt")],
        },
        "quality.reference_sets",
    )
    assert sets.searched == {"prompts": 2, "others": 3}
    for text in ("write a poem about the spring", "the river wakes up and sings", "she laughed about it all"):
        assert sets.find(f"And so: {text}.")


def test_a_rule_of_the_job_rejects_by_the_sets_name(tmp_path):
    write_jsonl(tmp_path / "blimp.jsonl", [{"sentence_good": "Every teenager had smiled at the parrot."}])
    section = Quality(reference_sets={"blimp": str(tmp_path / "blimp.jsonl")})
    rules = QualityRules.of(section)
    assert list(rules.facts()) == ["reference_contents.blimp"]
    assert rules("So every teenager had smiled at the parrot.", Prompt([], {})) == "contains_blimp"
    assert rules("No teenager had smiled.", Prompt([], {})) == ""


def test_the_content_of_the_files_identifies_a_run(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Nobody ever leaves the old mill.\n")
    first = reference_contents({"a": str(path)}, "k")
    path.write_text("Nobody ever leaves the new mill.\n")
    assert reference_contents({"a": str(path)}, "k") != first and reference_contents({}, "k") == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [("two words\n", "no text in it has 5 words or more"), ("\n", "there is no text in it"), (None, "no such file")],
)
def test_a_set_without_texts_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.txt").write_text(content)
    with pytest.raises(JobError, match=words) as raised:
        read_reference_sets({"a": str(tmp_path / "a.txt")}, "quality.reference_sets")
    assert raised.value.key == "quality.reference_sets.a"

import json
from dataclasses import replace

import pytest

from eval.blimp import PARADIGMS
from pipelines.inputs.minimal_pairs import identify_pairs, load_paradigms
from schemas.errors import JobError
from schemas.minimal_pairs import MinimalPairs
from services.models.minimal_pairs import MinimalPair
from tests.support.files import ROOT, write_jsonl


def write_pair(path, good):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"sentence_good": good, "sentence_bad": "Bad."}) + "\n")


@pytest.mark.parametrize(
    "names",
    [("island.jsonl", "island.part.jsonl"), ("a/island.jsonl", "b/island.jsonl"), ("island.jsonl.gz", "island.jsonl")],
)
def test_two_files_of_a_paradigm_are_refused_with_both_names(tmp_path, names):
    for name in names:
        write_pair(tmp_path / name, name)
    with pytest.raises(JobError, match="two of its files are the paradigm island") as raised:
        load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), ())
    assert raised.value.key == "blimp.path"
    assert all(str(tmp_path / name) in raised.value.cause for name in names)


def test_the_folders_of_the_hub_are_paradigms(tmp_path):
    for paradigm in ("adjunct_island", "wh_island"):
        write_pair(tmp_path / paradigm / "train-00000-of-00001.jsonl", f"{paradigm}.")
    write_pair(tmp_path / "npi.jsonl", "npi.")
    paradigms = load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), ())
    assert {name: pair.good for name, (pair,) in paradigms.items()} == {
        "adjunct_island": "adjunct_island.", "wh_island": "wh_island.", "npi": "npi.",
    }  # fmt: skip
    write_pair(tmp_path / "npi" / "train-00000-of-00001.jsonl", "npi.")
    with pytest.raises(JobError, match="two of its files are the paradigm npi"):
        load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), ())


def test_the_shipped_pairs_are_12_paradigms_of_20_that_are_not_blimps():
    paradigms = load_paradigms("blimp", MinimalPairs(path=str(ROOT / "pipelines/data/minimal_pairs")), ())
    assert [len(pairs) for pairs in paradigms.values()] == [20] * 12
    assert not set(paradigms) & set(PARADIGMS)
    sentences = [text for pairs in paradigms.values() for pair in pairs for text in (pair.good, pair.bad)]
    assert len(set(sentences)) == len(sentences) == 480


def test_a_folder_without_blimps_paradigms_is_taken_whole(tmp_path):
    write_pair(tmp_path / "turn_taking.jsonl", "Is it late?\nIt is.")
    write_pair(tmp_path / "hypernym.jsonl", "A dog is an animal.")
    assert list(load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), PARADIGMS)) == ["hypernym", "turn_taking"]
    write_pair(tmp_path / "wh_island.jsonl", "Who left?")
    with pytest.raises(JobError, match="66 of 67 paradigms are missing"):
        load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), PARADIGMS)


def test_a_row_of_ewok_is_one_target_after_two_contexts(tmp_path):
    row = {"Domain": "weather", "Context1": "It rained.", "Context2": "It was dry.", "Target1": "It is wet.",
           "Target2": "It is not wet."}  # fmt: skip
    write_jsonl(tmp_path / "weather.jsonl", [row])
    (pair,) = load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), PARADIGMS)["weather"]
    assert pair == MinimalPair("weather", "It is wet.", "It is wet.", "It rained.", "It was dry.")
    assert pair.texts == ("It rained. It is wet.", "It was dry. It is wet.")
    other = replace(pair, bad_context="It snowed.")
    assert identify_pairs([pair]) != identify_pairs([other])
    write_jsonl(tmp_path / "weather.jsonl", [row, {**row, "Context2": None}])
    with pytest.raises(JobError, match="Context2 is null") as raised:
        load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), PARADIGMS)
    assert raised.value.key == "blimp.path"
    write_jsonl(tmp_path / "weather.jsonl", [{"Domain": "weather", "Context1": "It rained."}])
    with pytest.raises(JobError, match="no such column; it has Domain, Context1"):
        load_paradigms("blimp", MinimalPairs(path=str(tmp_path)), PARADIGMS)

import json

import pytest

from eval.blimp import PARADIGMS
from pipelines.inputs.minimal_pairs import load_paradigms
from schemas.errors import JobError
from schemas.minimal_pairs import MinimalPairs
from tests.support.files import ROOT


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

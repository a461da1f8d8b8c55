"""Folders with several splits, in the layouts that `datasets` reads: their rows are never mixed in silence."""

import pytest

from pipelines.inputs.files import input_files
from schemas.errors import JobError
from schemas.job import Input


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"],
        ["train.jsonl", "dev.jsonl", "test.jsonl"],
        ["train/a.jsonl", "validation/a.jsonl"],
    ],
)
def test_a_folder_of_several_splits_is_refused_with_the_two_ways_to_read_one(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "a"}\n')
    with pytest.raises(JobError) as raised:
        input_files(Input(path=str(tmp_path)))
    assert "several splits" in raised.value.cause and "split: train" in raised.value.remedy
    assert len(input_files(Input(path=f"{tmp_path}/**/*.jsonl"))) == len(names)  # a glob names what it means


@pytest.mark.parametrize(
    "names", [["train-1.jsonl", "train-2.jsonl"], ["testament.jsonl", "training_log.jsonl", "a.jsonl"]]
)
def test_other_folders_are_read(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text('{"text": "a"}\n')
    assert len(input_files(Input(path=str(tmp_path)))) == len(names)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet", "a.tsv", "a.json"])
def test_prose_is_not_read_from_tables(tmp_path, name):
    (tmp_path / name).write_text("x\n")
    with pytest.raises(JobError, match="it is a table"):
        input_files(Input(path=str(tmp_path / name), format="text"), is_prose=True)

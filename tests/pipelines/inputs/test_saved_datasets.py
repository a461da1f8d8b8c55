"""Folders that `save_to_disk` of Hugging Face datasets wrote, as `input.dataset` and as `input.path`."""

import json

import pytest

from pipelines.corpora.rows import corpus_rows
from pipelines.inputs.reader import InputReader
from pipelines.training.labelled_texts import read_splits
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.job import Input
from schemas.train import LabelledTexts


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of one dataset (600 rows in two files, and a cache beside them) and of one with two splits."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"text": datasets.Value("string"), "emotions": datasets.List(datasets.ClassLabel(names=list(EMOTIONS)))}
    )
    rows = {"text": [f"t{number}" for number in range(600)], "emotions": [[number % 28] for number in range(600)]}
    one = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path_factory.mktemp("saved")
    one.save_to_disk(folder / "one", num_shards=2)
    (folder / "one" / "cache-0123456789abcdef.arrow").write_bytes(
        (folder / "one" / "data-00000-of-00002.arrow").read_bytes()
    )
    datasets.DatasetDict({"train": one, "test": one.select(range(5))}).save_to_disk(folder / "two")
    datasets.DatasetDict({"train": one}).save_to_disk(folder / "single")
    named = datasets.Dataset.from_dict(rows, features=features, split="validation")
    named.save_to_disk(folder / "named")
    return folder


def rows_of(fields=("text", "emotions"), **section):
    return [row.values for _, _, row in InputReader(Input(**section), list(fields)).all_rows()]


@pytest.mark.parametrize("name", ["one", "two/train", "single", "one/*.arrow"])
def test_a_saved_dataset_is_read_as_files(saved, name):
    rows = rows_of(path=str(saved / name))
    assert [row["text"] for row in rows] == [f"t{number}" for number in range(600)]
    assert rows[29] == {"text": "t29", "emotions": [EMOTIONS[1]]}
    reader = InputReader(Input(path=str(saved / name)), ["text"])
    assert [row.values["text"] for _, _, row in reader.rows(290, 303)] == [f"t{number}" for number in range(290, 303)]
    assert rows_of([], path=str(saved / name), limit=2) == [{}, {}]


@pytest.mark.parametrize(
    ("name", "split", "numbers"),
    [
        ("one", "train", range(600)),
        ("two", "train", range(600)),
        ("two", "test", range(5)),
        ("two/test", "test", range(5)),
        ("named", "validation", range(600)),
        ("two", "train[10:12]", range(10, 12)),
        ("two", "test+train[:1]", [*range(5), 0]),
    ],
)
def test_a_saved_dataset_is_read_as_a_dataset(saved, name, split, numbers):
    rows = rows_of(dataset=str(saved / name), split=split)
    assert rows == [{"text": f"t{number}", "emotions": [EMOTIONS[number % 28]]} for number in numbers]


def test_other_verbs_read_it_too(saved):
    assert next(iter(corpus_rows(str(saved / "one"), "text", ["emotions"]))) == ("t0", "admiration")
    assert len(read_splits(LabelledTexts(train=str(saved / "one"))).train.texts) > 400


def test_a_split_is_named(saved):
    with pytest.raises(JobError, match="several splits into it: train, test") as raised:
        rows_of(path=str(saved / "two"))
    assert raised.value.key == "input.path" and "input.split" in raised.value.remedy
    for name, split in (("two", "dev"), ("named", "train"), ("one", "test")):
        with pytest.raises(JobError, match=f'Unknown split "{split}"'):
            rows_of(dataset=str(saved / name), split=split)


@pytest.mark.parametrize("state", ["", "[]", '{"_data_files": 3}', '{"_data_files": [{}]}', '{"_data_files": []}'])
def test_a_damaged_folder_is_refused(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(JobError, match=r"state\.json is no list of files"):
        rows_of(path=str(tmp_path))


def test_a_folder_names_no_file_elsewhere(tmp_path):
    (tmp_path / "secret.arrow").write_text("x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    (tmp_path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(JobError, match="leads out of"):
        rows_of(path=str(tmp_path / "set"))

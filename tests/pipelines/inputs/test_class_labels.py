"""Class labels of Hugging Face datasets: numbers in the files, names in the rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.corpora.rows import corpus_rows
from pipelines.evaluation.prompts import read_prompts
from pipelines.inputs.reader import InputReader
from pipelines.training.labelled_texts import content_of, read_splits
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.evaluate import Sentiment
from schemas.job import Input
from schemas.train import LabelledTexts

JOY, LOVE, NEUTRAL = (EMOTIONS.index(name) for name in ("joy", "love", "neutral"))
ROWS = [{"text": f"t{i}", "labels": [JOY, LOVE] if i % 2 else [NEUTRAL], "id": f"i{i}"} for i in range(200)]
LABEL = {"names": list(EMOTIONS), "_type": "ClassLabel"}
LISTS = [{"feature": LABEL, "_type": "List"}, {"feature": LABEL, "length": -1, "_type": "Sequence"}, [LABEL]]


def write_hub(path, rows, labels):
    """Writes Parquet as `Dataset.to_parquet` and the Hub do: with the features in the schema's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "labels": labels,
        "id": {"dtype": "string", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), path)
    return path


def info(emotions=EMOTIONS, **config):
    # Not in order: a card orders names by their number.
    names = {str(number): name for number, name in reversed(list(enumerate(emotions)))}
    labels = {"name": "labels", "sequence": {"class_label": {"names": names}}}
    return {**config, "features": [{"name": "text", "dtype": "string"}, labels]}


def write_card(folder, infos):
    front_matter = yaml.safe_dump({"license": "mit", "dataset_info": infos}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front_matter}---\n\n# A dataset\n---\n")


def rows_of(section, fields=("text", "labels")):
    return [row.values for _, _, row in InputReader(section, list(fields)).all_rows()]


@pytest.mark.parametrize("labels", LISTS)
def test_labels_of_hub_parquet_are_names(tmp_path, labels):
    path = write_hub(tmp_path / "train.parquet", ROWS, labels)
    rows = rows_of(Input(path=str(path)))
    assert rows[:2] == [{"text": "t0", "labels": ["neutral"]}, {"text": "t1", "labels": ["joy", "love"]}]
    assert len(rows) == 200


def test_structs_nulls_and_numbers_outside_the_names(tmp_path):
    features = {
        "one": LABEL,
        "struct": {"a": LABEL, "b": {"_type": "Value"}},
        "turns": [{"mood": LABEL}],
        "old": {"feature": {"mood": LABEL}, "_type": "Sequence"},
        "number": {"_type": "Value"},
    }
    row = {
        "one": JOY, "struct": {"a": -1, "b": 3}, "turns": [{"mood": JOY}, None], "old": {"mood": [JOY]}, "number": 3,
    }  # fmt: skip
    other = {"one": None, "struct": None, "turns": [], "old": {"mood": []}, "number": 3}
    table = pa.Table.from_pylist([row, other, {**other, "one": 28}])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    first, second, third = rows_of(Input(path=str(tmp_path / "a.parquet")), row)
    assert first == {
        "one": "joy", "struct": {"a": None, "b": 3}, "turns": [{"mood": "joy"}, None], "old": {"mood": ["joy"]},
        "number": 3,
    }  # fmt: skip
    assert second == other and third["one"] == 28


def test_a_dataset_card_names_the_labels_of_files_without_metadata(tmp_path):
    (tmp_path / "data").mkdir()
    write_card(tmp_path, info())
    pq.write_table(pa.Table.from_pylist(ROWS[:4]), tmp_path / "data" / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:4]))
    (tmp_path / "c.csv").write_text(f"text,labels\nt0,{NEUTRAL}\nt1,joy\n")
    rows = rows_of(Input(path=str(tmp_path)))
    listed = [["neutral"], ["joy", "love"]] * 2
    assert [row["labels"] for row in rows] == [*listed, "neutral", "joy", *listed]


def test_other_names_in_a_card_are_another_content(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    section = Input(path=str(tmp_path / "b.jsonl"))

    def contents():
        return [InputReader(section, fields).inputs[0].content for fields in (["text", "labels"], ["text"])]

    without = contents()
    write_card(tmp_path, info())
    named = contents()
    write_card(tmp_path, info(EMOTIONS[::-1]))
    assert len({without[0], named[0], contents()[0]}) == 3
    assert without[1] == named[1] == contents()[1], "a job that reads no label does not depend on the names"


def test_the_card_of_a_folder_with_several_configurations(tmp_path):
    write_card(tmp_path, [info(config_name="one"), info(EMOTIONS[::-1], config_name="other")])
    for folder in ("one", "other", "data"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert rows_of(Input(path=str(tmp_path / "one")))[0]["labels"] == ["neutral"]
    assert rows_of(Input(path=str(tmp_path / "other")))[0]["labels"] == ["admiration"]
    with pytest.raises(JobError, match="several configurations"):
        rows_of(Input(path=str(tmp_path / "data")))


@pytest.mark.parametrize(
    "text",
    ["", "# no front matter", "---\nno: [valid\n---\n", "---\ndataset_info: 3\n---\n", "---\n- a\n---\n", "\x00"],
)
def test_any_other_readme_leaves_numbers(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "dataset_infos.json").write_text("[1]")
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert rows_of(Input(path=str(tmp_path)))[0]["labels"] == [NEUTRAL]
    infos = {"default": {"features": {"labels": [LABEL]}}}
    (tmp_path / "dataset_infos.json").write_text(json.dumps(infos))
    assert rows_of(Input(path=str(tmp_path)))[0]["labels"] == ["neutral"]


def test_a_loaded_dataset(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_hub(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", ROWS, LISTS[0])
    section = Input(dataset=str(tmp_path / "set"), columns={"emotion": "labels"})
    assert rows_of(section, ["text", "emotion"])[1] == {"text": "t1", "emotion": ["joy", "love"]}


def test_a_classifier_is_trained_on_them(tmp_path):
    path = str(write_hub(tmp_path / "train.parquet", ROWS, LISTS[0]))
    section = LabelledTexts(train=path, columns={"emotions": "labels"})
    splits = read_splits(section)
    assert sum(len(part.texts) for part in (splits.train, splits.dev, splits.test)) == 200
    assert set(splits.train.targets.sum(0).nonzero()[0]) == {JOY, LOVE, NEUTRAL}
    assert "labels" in content_of(section)[path]


def test_they_are_names_in_stats_and_evaluations(tmp_path):
    path = str(write_hub(tmp_path / "train.parquet", ROWS, LISTS[0]))
    assert list(corpus_rows(path, "text", ["labels"]))[:2] == [("t0", "neutral"), ("t1", "joy")]
    rows = [{"text": "t", "labels": [LOVE], "id": ""}]
    path = str(write_hub(tmp_path / "prompts.parquet", rows, LISTS[0]))
    section = Sentiment(prompts=path, columns={"prompt": "text", "emotion": "labels"})
    assert [prompt.emotion for prompt in read_prompts(section, "sentiment")] == ["love"]

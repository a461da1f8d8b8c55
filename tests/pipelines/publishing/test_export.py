"""`kindling export`: files, columns, formats for trainers, splits; read again by `datasets` and by `train`."""

import csv
import json
from pathlib import Path

import polars
import pytest
import yaml

from pipelines import export
from pipelines.publishing.export import load_command
from pipelines.recipes import make_recipe
from pipelines.training.rows import Completions
from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from schemas.job_parsing import parse_job
from schemas.train import SftStage
from services.storage.store import ShardStore
from tests.support.runs import make_run

TEMPLATE = "Explain {{ topic }} to a child of {{ age }}."
TEXTS = [f'Text {i}: \u2764,\n"so"' for i in range(10)]


def template_run(folder, inputs, template=TEMPLATE, **job):
    """A run of the recipe template whose rows have these inputs, one text for each; also its job."""
    prompt = Path(folder).with_suffix(".jinja")
    prompt.write_text(template)
    job = parse_job(
        {
            "name": "r", "input": {"path": "in.csv"}, "recipe": "template", "prompt": str(prompt),
            "model": {"id": "fake"}, "output": {"path": str(folder)}, **job,
        },
        AugmentJob,
    )  # fmt: skip
    hash_ = make_recipe(job).prompt_hash
    rows = [
        {"text": TEXTS[i], "emotions": [], "inputs": json.dumps(each), "prompt_hash": hash_}
        for i, each in enumerate(inputs)
    ]
    store = ShardStore(make_run(folder, rows))
    run = store.read_run()
    run.job = job.model_dump(mode="json")
    run.job["input"]["storage_options"] = []  # a record has the names alone
    store.write_run(run)
    return store.url


@pytest.fixture
def run(tmp_path):
    return template_run(tmp_path / "run", [{"topic": f"T{i}", "age": 5 + i, "note": None} for i in range(10)])


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Loads an export by the call that the command shows."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return lambda exported: eval(load_command(exported), {"datasets": datasets})


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_the_ending_gives_one_file(run, tmp_path, loaded, ending):
    exported = export(run, str(tmp_path / f"q.{ending}"), columns=["text", "inputs.topic", "inputs.age", "row_index"])
    assert exported.files == [f"q.{ending}"] and exported.rows == 10
    rows = loaded(exported)
    assert rows.column_names == exported.columns == ["text", "topic", "age", "row_index"]
    assert rows[3] == {"text": TEXTS[3], "topic": "T3", "age": 8, "row_index": 3}
    assert sorted(path.name for path in tmp_path.glob("*q.*")) == [f"q.{ending}"]
    with pytest.raises(RunError, match="exists already"):
        export(run, exported.to)


def test_a_csv_file_has_lists_as_json(run, tmp_path):
    export(run, str(tmp_path / "q.csv"), columns=["emotions", "text"])
    assert next(csv.DictReader((tmp_path / "q.csv").open()))["emotions"] == "[]"


@pytest.mark.parametrize("file_format", [None, "jsonl", "csv"])
def test_a_folder_loads_with_its_types_whatever_the_first_rows_have(tmp_path, loaded, file_format, monkeypatch):
    monkeypatch.setattr("pipelines.publishing.export._ROWS_PER_FILE", 4)
    inputs = [{"topic": f"T{i}", "age": 1, "note": None if i < 9 else "late"} for i in range(10)]
    exported = export(template_run(tmp_path / "run", inputs), str(tmp_path / "d"), file_format, flatten=True)
    assert len(exported.files) == 3
    rows = loaded(exported)
    assert rows.num_rows == 10 and rows[9]["note"] == "late" and rows[0]["note"] is None
    assert str(rows.features["started_at"].dtype) == "timestamp[us, tz=UTC]" and rows[0]["started_at"].year == 2026
    assert "inputs" not in rows.column_names and rows.column_names[5:8] == ["topic", "age", "note"]


def test_columns_of_the_input_keep_their_values_and_types(tmp_path):
    first = {"whole": 1, "mixed": 1, "number": 1, "big": 2**53 + 1, "odd": True, "tags": [], "text": "in", "nested": {}}
    other = {"whole": 2, "mixed": "a", "number": 1.5, "big": 0.5, "odd": 0.5, "tags": ["x"], "text": "in", "late": "z"}
    run = template_run(tmp_path / "run", [first, other], "x")
    exported = export(run, str(tmp_path / "q.parquet"), columns=["text", "inputs"], flatten=True)
    rows = polars.read_parquet(exported.to).to_dicts()
    assert rows[0] == {
        "text": TEXTS[0], "whole": 1, "mixed": "1", "number": 1.0, "big": str(2**53 + 1), "odd": "true", "tags": [],
        "inputs.text": "in", "nested": "{}", "late": None,
    }  # fmt: skip
    assert (rows[1]["mixed"], rows[1]["number"], rows[1]["tags"], rows[1]["late"]) == ("a", 1.5, ["x"], "z")


@pytest.mark.parametrize("order", [1, -1])
def test_whole_numbers_of_64_bits_without_a_sign_stay_numbers(tmp_path, order):
    largest = 2**64 - 1
    first = {"id": 2**63, "ids": [largest], "sign": 2**63, "huge": 2**64, "half": largest}
    other = {"id": 1, "ids": [], "sign": -1, "huge": 1, "half": 0.5}
    run = template_run(tmp_path / "run", [first, other][::order], "x")
    exported = export(run, str(tmp_path / "q.parquet"), columns=["text", "inputs"], flatten=True)
    types = {name: str(type_) for name, type_ in polars.read_parquet_schema(exported.to).items()}
    assert (types["id"], types["ids"]) == ("UInt64", "List(UInt64)")
    assert types["sign"] == types["huge"] == types["half"] == "String"
    rows = sorted(polars.read_parquet(exported.to).to_dicts(), key=lambda row: row["id"])
    assert rows[1] | {"text": ""} == {"text": "", **first, "sign": str(2**63), "huge": str(2**64), "half": str(largest)}


def test_messages_are_the_prompts_that_were_sent(tmp_path, loaded):
    run = template_run(tmp_path / "run", [{"topic": "rain", "age": 6}] * 3, f"system:\nBe kind.\nuser:\n{TEMPLATE}")
    row = loaded(export(run, str(tmp_path / "q.jsonl"), "messages", ["inputs.topic"]))[0]
    assert [tuple(message.values()) for message in row["messages"]] == [
        ("system", "Be kind."), ("user", "Explain rain to a child of 6."), ("assistant", TEXTS[0]),
    ]  # fmt: skip
    assert row["topic"] == "rain"


def test_formats_for_trainers_train(run, tmp_path, loaded):
    """`kindling train` reads each format as it reads the run."""
    stages = {
        "messages": {"messages": "messages"},
        "alpaca": {"completion": "output"},
        "prompt-completion": {"prompt": ["prompt"], "completion": "completion"},
    }
    for file_format, columns in stages.items():
        exported = export(run, str(tmp_path / f"{file_format}.jsonl"), file_format)
        stage = SftStage(kind="sft", parts={"all": {"input": {"path": exported.to}}}, **columns)
        rows = list(Completions("stages.0.parts", stage))
        assert [row.text for row in rows] == TEXTS
        prompt = rows[2].prompt if isinstance(rows[2].prompt, str) else rows[2].prompt[0]["content"]
        assert prompt == "Explain T2 to a child of 7."
        assert loaded(export(run, str(tmp_path / file_format), file_format)).num_rows == 10


def test_alpaca_has_the_instruction_of_the_row_where_there_is_one(tmp_path):
    inputs = [{"instruction": "Add.", "input": "1 2"}, {"instruction": "Sing.", "input": None}]
    export(template_run(tmp_path / "run", inputs, "Do: {{ instruction }}"), str(tmp_path / "q.jsonl"), "alpaca")
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [(row["instruction"], row["input"]) for row in rows] == [("Add.", "1 2"), ("Sing.", "")]


def test_a_test_split_has_whole_input_rows(tmp_path, loaded):
    rows = [[{"variant": v, "sample": s} for v in ("a", "b") for s in (0, 1)] for _ in range(10)]
    run = make_run(tmp_path / "run", rows)
    store = ShardStore(run)
    record = store.read_run()
    record.job = {"model": {"id": "fake", "revision": None}, "recipe": "t", "prompt": None, "sampling": {}, "seed": 0}
    store.write_run(record)
    splits = {}
    for seed in (0, 1):
        exported = export(run, str(tmp_path / f"d{seed}"), test=0.2, seed=seed)
        assert exported.splits == {"train": 32, "test": 8}
        dataset = loaded(exported)
        splits[seed] = {name: set(dataset[name]["row_index"]) for name in ("train", "test")}
        assert not splits[seed]["train"] & splits[seed]["test"] and len(splits[seed]["test"]) == 2
    assert splits[0] != splits[1]
    again = loaded(export(run, str(tmp_path / "again"), test=0.2))
    assert list(again["test"]["row_index"]) == sorted([*splits[0]["test"]] * 4)


def test_the_card_has_what_the_hub_wants(run, tmp_path):
    export(run, str(tmp_path / "d"), license="cc-by-4.0", language="en,de")
    header = yaml.safe_load((tmp_path / "d" / "README.md").read_text().split("---\n")[1])
    assert header["license"] == "cc-by-4.0" and header["language"] == ["en", "de"]
    assert header["size_categories"] == ["n<1K"] and header["pretty_name"] == "run"


def test_an_empty_folder_is_filled_and_nothing_half_written_stays(run, tmp_path):
    (tmp_path / "mount").mkdir()
    assert export(run, str(tmp_path / "mount")).rows == 10
    Path(tmp_path / "run.jinja").write_text("Another.")
    for to in ("d", "q.jsonl"):
        with pytest.raises(RunError, match="another version of the prompt"):
            export(run, str(tmp_path / to), "messages")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "d", "q"))]
    Path(tmp_path / "run.jinja").unlink()
    with pytest.raises(RunError, match=r"(?s)prompts of the run.*remedy: run it in the folder where the job ran"):
        export(run, str(tmp_path / "d"), "messages")


WRONG = {
    "suffix": ({"to": "q.json"}, "no .json is written"),
    "contradiction": ({"to": "q.jsonl", "file_format": "csv"}, "--to ends with .jsonl"),
    "format": ({"to": "d", "file_format": "xml"}, "no such format"),
    "lists": ({"to": "q.csv", "file_format": "messages"}, "a CSV file has no lists"),
    "two splits": ({"to": "q.csv", "test": 0.1}, "do not go into one file"),
    "share": ({"to": "d", "test": 10}, "not a share"),
    "column": ({"to": "d", "columns": ["text", "topic"]}, r"inputs\.NAME"),
    "input column": ({"to": "d", "columns": ["inputs.topics"]}, "the input rows have topic, age, note"),
    "twice": ({"to": "d", "columns": ["text", "text"]}, "asked for twice"),
    "flatten": ({"to": "d", "columns": ["text"], "flatten": True}, "not among the columns"),
    "license": ({"to": "d", "license": "Apache 2.0"}, "apache-2.0"),
    "language": ({"to": "d", "language": "English"}, "write it as en"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_error(run, tmp_path, case):
    options, words = WRONG[case]
    with pytest.raises(JobError, match=words):
        export(run, **{**options, "to": str(tmp_path / options["to"])})
    assert not list(tmp_path.glob("[dq]*"))


def test_prompts_of_several_turns_are_messages_alone(tmp_path):
    run = template_run(tmp_path / "run", [{"topic": "a"}], "system:\nBe kind.\nuser:\n{{ topic }}")
    for file_format in ("alpaca", "prompt-completion"):
        with pytest.raises(JobError, match="take --format messages"):
            export(run, str(tmp_path / "q.jsonl"), file_format)


def test_a_run_without_accepted_rows_is_refused(tmp_path):
    run = make_run(tmp_path / "run", [{"state": "error"}] * 4)
    with pytest.raises(RunError, match="no accepted row yet"):
        export(run, str(tmp_path / "d"))


def test_the_command(run, kindling, tmp_path):
    done = kindling("export", run, "--to", "q.jsonl", "--columns", "text, inputs.topic")
    assert done.stdout.splitlines()[:2] == ["10 rows in 1 file", "columns: text, topic"], done.stderr
    assert 'load_dataset("json", data_files="q.jsonl", split="train")' in done.stdout

"""Which files of a folder or glob are input, and what is said of the others."""

import json
import logging

import fsspec
import pytest

from pipelines.inputs.file_choice import returned_files
from pipelines.inputs.files import input_files
from pipelines.run_folder import RECORD_NAMES
from schemas.errors import JobError
from schemas.job import Input

ROW = '{"text": "a"}\n'
HIDDEN = [
    "._rows.jsonl", ".rows.jsonl", "_rows.jsonl", ".ipynb_checkpoints/rows.jsonl", "__MACOSX/._rows.jsonl",
    "__MACOSX/rows.jsonl", "_temporary/0/rows.jsonl", ".git/a/rows.jsonl", "_metadata/rows.jsonl",
]  # fmt: skip


def write(folder, *names, content=ROW):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text\na\n" if name.endswith(".csv") else content)
    return folder


def write_run(folder, record="run.json", data=("data/part-00000.parquet", "rejected/part-00000.parquet")):
    job = {"format": 1, "name": "r", "created_at": "now", "job": {"name": "r", "seed": 0}, "fingerprint": "0"}
    write(folder, record, content=json.dumps(job, indent=2))
    return write(folder, *data)


def names_of(folder, path=None, **section):
    files = input_files(Input(path=str(path or folder), **section))
    return [file.path.removeprefix(f"{folder}/") for file in files]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.jsonl", "*.jsonl", "*/*.jsonl", "*/*/*.jsonl", "*"])
def test_hidden_and_temporary_files_are_not_input(tmp_path, pattern):
    write(tmp_path, *HIDDEN, "a/rows.jsonl", "a/b/rows.jsonl", "rows.jsonl")
    found = names_of(tmp_path, tmp_path / pattern)
    assert found and set(found) <= {"a/rows.jsonl", "a/b/rows.jsonl", "rows.jsonl"}
    if pattern in ("", "**", "**/*.jsonl"):
        assert len(found) == 3


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_file_is_read_where_it_or_its_folder_is_named(tmp_path, name):
    write(tmp_path, name)
    assert names_of(tmp_path, tmp_path / name) == [name]
    if "/" in name and not name.rpartition("/")[2].startswith("."):
        folder = tmp_path / name.rpartition("/")[0]
        assert names_of(tmp_path, folder) == names_of(tmp_path, folder / "*.jsonl") == [name]
    first = name.partition("/")[0]
    assert names_of(tmp_path, tmp_path / f"{first[:3]}*{name[len(first) :]}") == [name]


def test_hidden_files_of_a_remote_folder(tmp_path):
    fs = fsspec.filesystem("memory")
    for name in ("_temporary/0/rows.jsonl", "rows.jsonl", "._rows.jsonl"):
        fs.pipe_file(f"/choice-test/{name}", ROW.encode())
    try:
        for path in ("memory://choice-test", "memory://choice-test/**", "memory://choice-test/*"):
            assert names_of("/choice-test", path) == ["rows.jsonl"]
    finally:
        fs.rm("/choice-test", recursive=True)


def test_what_is_left_out_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, "kindling")
    write(tmp_path / "in", "rows.jsonl", "_more.jsonl", "LICENSE.txt", "notes.md")
    assert names_of(tmp_path, tmp_path / "in") == ["in/rows.jsonl"]
    assert "1 hidden or temporary files (_more.jsonl)" in caplog.text and "(LICENSE.txt)" in caplog.text
    assert "notes.md" not in caplog.text
    write(tmp_path / "hidden", "_rows.jsonl")
    for path in (tmp_path / "hidden", tmp_path / "hidden" / "*.jsonl"):
        with pytest.raises(JobError, match=r"all files in it are left out: 1 hidden .*\(_rows.jsonl\)") as raised:
            names_of(tmp_path, path)
        assert "name it" in raised.value.remedy


@pytest.mark.parametrize("pattern", ["", "*", "**"])
def test_a_licence_beside_tables_is_no_input(tmp_path, pattern):
    write(tmp_path, "LICENSE.txt", "README.txt", "vocab.txt", "rows.jsonl", "more/rows.csv")
    assert set(names_of(tmp_path, tmp_path / pattern)) <= {"rows.jsonl", "more/rows.csv"}
    assert names_of(tmp_path, [tmp_path / "LICENSE.txt"][0]) == ["LICENSE.txt"]
    assert names_of(tmp_path, tmp_path / "*.txt") == ["LICENSE.txt", "README.txt", "vocab.txt"]


def test_a_folder_of_text_is_read_without_its_licence(tmp_path):
    write(tmp_path, "LICENSE.txt", "Readme.txt", "books.txt", "speech.train", "license_plates.txt")
    assert names_of(tmp_path) == ["books.txt", "license_plates.txt", "speech.train"]
    write(tmp_path / "alone", "LICENSE.txt")
    assert names_of(tmp_path, tmp_path / "alone") == ["alone/LICENSE.txt"]


def test_a_folder_gives_the_files_of_the_format_that_is_named(tmp_path):
    write(tmp_path, "a.txt", "b.jsonl", "c.csv")
    assert names_of(tmp_path, format="text") == ["a.txt"]
    assert names_of(tmp_path, format="jsonl") == ["b.jsonl"]
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "c.csv").unlink()
    assert names_of(tmp_path, format="jsonl") == ["a.txt"]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.parquet"])
@pytest.mark.parametrize("record", sorted(set(RECORD_NAMES.values())))
def test_the_run_of_any_job_below_the_input_folder_is_no_input(tmp_path, record, pattern):
    write(tmp_path, "rows.parquet", "more/rows.parquet")
    before = names_of(tmp_path, tmp_path / pattern)
    write_run(tmp_path / "out", record)
    write_run(tmp_path / "more" / "out", record, ["data/part-00000.parquet", "merges.txt"])
    assert names_of(tmp_path, tmp_path / pattern) == before == ["more/rows.parquet", "rows.parquet"]


def test_a_run_that_is_named_itself_gives_its_data(tmp_path):
    write_run(tmp_path / "out")
    data = ["out/data/part-00000.parquet"]
    assert names_of(tmp_path, tmp_path / "out") == names_of(tmp_path, tmp_path / "out" / "**") == data
    assert names_of(tmp_path, tmp_path / "out" / "data") == data
    assert names_of(tmp_path, tmp_path / "*" / "data" / "*.parquet") == data
    assert names_of(tmp_path, tmp_path / "out" / "rejected") == ["out/rejected/part-00000.parquet"]


@pytest.mark.parametrize("content", ["[]", '[{"job": {"name": 1}}]', '{"rows": [{"job": {}}]}', "", '{"job": "x"}'])
def test_a_file_of_somebody_else_is_no_record(tmp_path, content):
    write(tmp_path, "own/rows.jsonl")
    write(tmp_path, "own/train.json", content=content)
    assert names_of(tmp_path) == ["own/rows.jsonl"]


def test_hidden_files_are_no_answers_of_respondents(tmp_path):
    write(tmp_path, "answers-1.json", "._answers-1.json")
    assert [file.rpartition("/")[2] for file in returned_files("x", [str(tmp_path / "*.json")])] == ["answers-1.json"]
    assert returned_files("x", [str(tmp_path / "._answers-1.json")])

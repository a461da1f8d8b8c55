"""Files that are something else than their name says, as scripts, browsers and git leave them."""

import gzip
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpora.rows import corpus_rows
from pipelines.evaluation.prompts import read_prompts
from pipelines.inputs.minimal_pairs import load_paradigms
from pipelines.inputs.reader import InputReader
from pipelines.labelling.label import label
from pipelines.recipes.template import Template
from pipelines.training.labelled_texts import read_splits
from schemas.errors import JobError, KindlingError
from schemas.evaluate import Sentiment
from schemas.job import Input
from schemas.minimal_pairs import MinimalPairs
from schemas.train import LabelledTexts

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
HTML = b"\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"
PYTHON = b"{'text': 'a', 'label': None}\n{'text': 'b', 'label': None}\n"
LIST = b'[\n {"text": "a"},\n {"text": "b"}\n]\n'
NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a.jsonl.gz", "a.bin"]


def parquet_bytes():
    pq.write_table(pa.table({"text": ["a"]}), sink := io.BytesIO())
    return sink.getvalue()


def arrow_bytes():
    table = pa.table({"text": ["a"]})
    with pa.ipc.new_stream(sink := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zip_bytes():
    with zipfile.ZipFile(sink := io.BytesIO(), "w") as archive:
        archive.writestr("xl/workbook.xml", "x")
    return sink.getvalue()


def error_of(path, fields=("text",), **section):
    with pytest.raises(JobError) as raised:
        InputReader(Input(path=str(path), **section), list(fields))
    assert str(path) in str(raised.value) and "no such column" not in raised.value.cause
    return raised.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "cause", "remedy"), [(LFS, "a Git LFS pointer", "git lfs pull"), (HTML, "a web page", "/resolve/")]
)
def test_pointers_and_web_pages_are_no_rows(tmp_path, name, content, cause, remedy):
    (tmp_path / name).write_bytes(content)
    error = error_of(tmp_path / name)
    assert error.key == "input.path" and cause in error.cause and remedy in error.remedy
    (tmp_path / "good.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(JobError, match=cause):
        InputReader(Input(path=[str(tmp_path / "good.jsonl"), str(tmp_path / name)]), ["text"])


@pytest.mark.parametrize(
    ("name", "content", "cause", "remedy"),
    [
        ("a.jsonl", LIST, "it holds a JSON list", "rename it to .json or set input.format to json"),
        ("a.jsonl", b'[{"text": "a"}]', "it holds a JSON list", "input.format"),
        ("a.jsonl", PYTHON, "its lines are Python dicts (single quotes)", "json.dumps"),
        ("a.jsonl", b'{\n  "text": "a"\n}\n', "its objects go over several lines", "jq -c"),
        ("a.jsonl", b'"a"\n"b"\n', "the first: the line is a JSON str, not an object", "object in each line"),
        ("a.jsonl", b"text\na\n", "the first: the line is not JSON", "object in each line"),
        ("a.jsonl", b"", "no rows", "has some"),
        ("a.json", b" \n", "the file is empty", "name a file with rows"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}\n', "not valid JSON: Extra data", "rename it to .jsonl"),
        ("a.json", b'{"text": {"0": "a"}}', "it holds one JSON object, not a list", "as a list"),
        ("a.json", b"[{'text': 'a'}]", "not valid JSON", "repair"),
        ("a.jsonl", b'{"text": "a"},\n{"text": "b"},\n', "the first: the line is not JSON: Extra data", "in each line"),
        ("a.csv", b'{"text": "a"}\n{"text": "b"}\n', "it is JSON, not CSV", "ending"),
        ("a.tsv", b'[{"text": "a"}]', "it is JSON, not CSV", "ending"),
        ("a.csv", gzip.compress(b"text\na\n", mtime=0), "compressed, which its name does not say", ".gz"),
        ("a.jsonl", parquet_bytes(), "a Parquet file", "ending"),
        ("a.txt", arrow_bytes(), "an Arrow file", "ending"),
        ("a.xlsx", zip_bytes(), "a spreadsheet", "as CSV"),
        ("a.csv", zip_bytes(), "a ZIP archive or office document", "as CSV"),
    ],
)
def test_a_file_is_said_to_be_what_it_is(tmp_path, name, content, cause, remedy):
    (tmp_path / name).write_bytes(content)
    for fields in (["text"], []):
        error = error_of(tmp_path / name, fields)
        assert error.key == "input.path" and cause in error.cause and remedy in error.remedy


def test_a_row_that_is_no_json_object_spoils_no_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(PYTHON * 200 + b'{"text": "good"}\n')
    rows = [row.values for _, _, row in InputReader(Input(path=str(tmp_path / "a.jsonl")), ["text"]).all_rows()]
    assert rows == [None] * 400 + [{"text": "good"}]


@pytest.mark.parametrize(
    ("content", "cause", "remedy"),
    [(LFS, "Git LFS pointer", "git lfs"), (HTML, "web page", "resolve"), (PYTHON, "Python dicts", "json.dumps")],
)
def test_every_verb_says_so(tmp_path, content, cause, remedy):
    path = str(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_bytes(content)
    for call in (
        lambda: read_splits(LabelledTexts(train=path)),
        lambda: read_prompts(Sentiment(prompts=path), "sentiment"),
        lambda: load_paradigms("blimp", MinimalPairs(path=path), ()),
        lambda: list(corpus_rows(path, "text", [])),
    ):
        with pytest.raises(KindlingError, match=cause) as raised:
            call()
        assert path in str(raised.value) and remedy in raised.value.remedy


@pytest.mark.parametrize(("content", "cause"), [(LFS, "Git LFS pointer"), (HTML, "web page")])
def test_files_that_have_readers_of_their_own(tmp_path, content, cause):
    for name in ("train.tsv", "prompts.json", "raw.txt"):
        (tmp_path / name).write_bytes(content)
    job = {"name": "x", "input": {"path": str(tmp_path / "raw.txt")}, "output": {"path": str(tmp_path / "out")}}
    for call in (
        lambda: read_splits(LabelledTexts(train=str(tmp_path / "train.tsv"))),
        lambda: read_prompts(Sentiment(prompts=str(tmp_path / "prompts.json")), "sentiment"),
        lambda: label(job),
    ):
        with pytest.raises(JobError, match=cause):
            call()


def test_a_prompt_may_be_html_but_no_pointer(tmp_path):
    (tmp_path / "page.jinja").write_bytes(HTML)
    assert Template(str(tmp_path / "page.jinja"))
    (tmp_path / "pointer.jinja").write_bytes(LFS)
    with pytest.raises(JobError, match="Git LFS pointer"):
        Template(str(tmp_path / "pointer.jinja"))


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_column_that_only_later_rows_have(tmp_path, ending):
    rows = [{"text": str(number)} for number in range(300)]
    rows[250]["late"] = "here"
    path = tmp_path / f"a.{ending}"
    path.write_text(json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    for section in (
        Input(path=str(path), keep=["late"]),
        Input(path=str(path), columns={"label": "late"}),
        Input(path=str(path)),
    ):
        fields = ["text", "label"] if section.columns else ["text"] if section.keep else ["text", "late"]
        found = [row.values for _, _, row in InputReader(section, fields).all_rows()]
        assert [number for number, row in enumerate(found) if "here" in row.values()] == [250]
    assert ("250", "here") in list(corpus_rows(str(path), "text", ["late"]))
    with pytest.raises(JobError, match="no such column; it has text") as raised:
        InputReader(Input(path=str(path), keep=["lat"]), ["text"])
    assert (raised.value.key, raised.value.remedy) == ("input.keep", "correct the name, or leave it out")

"""Files in other encodings than UTF-8: read where the job names one, else refused, or an error of their rows."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.checking.new_job import new_job
from pipelines.corpora.rows import corpus_rows
from pipelines.evaluation.files import read_json
from pipelines.inputs.cells import text_cell
from pipelines.inputs.files import input_files
from pipelines.inputs.reader import InputReader
from pipelines.labelling.ranges import plan_ranges
from pipelines.recipes.jinja_prompt import JinjaPrompt
from schemas.errors import JobError
from schemas.job import Input
from schemas.rows import RowError
from schemas.text import wide_encoding

JSONL = '{"text": "first"}\n{"text": "second"}\n{"text": "third"}\n'
CONTENTS = {
    "rows.txt": "first\nsecond\nthird\n",
    "rows.jsonl": JSONL,
    "rows.json": '[{"text": "first"}]',
    "rows.csv": "text,n\nfirst,1\nsecond,2\n",
    "rows.tsv": "text\tn\nfirst\t1\nsecond\t2\n",
}
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", CONTENTS)
def test_utf16_and_utf32_are_refused_with_the_command_that_converts_them(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_bytes(CONTENTS[name].encode(encoding))
    with pytest.raises(JobError) as raised:
        InputReader(Input(path=str(path)), ["text"])
    assert raised.value.key == "input.path" and raised.value.value == str(path)
    family = encoding[:6].upper()
    assert family in raised.value.cause and f"iconv -f {family} -t UTF-8" in raised.value.remedy


def test_compressed_utf16_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(JSONL.encode("utf-16")))
    with pytest.raises(JobError, match="UTF-16"):
        InputReader(Input(path=str(path)), ["text"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_label_refuses_them_too(tmp_path, encoding):
    (tmp_path / "raw.txt").write_bytes("A sentence.\n".encode(encoding))
    files = input_files(Input(path=str(tmp_path / "raw.txt"), format="text"))
    with pytest.raises(JobError, match=encoding[:6].upper()):
        plan_ranges(files, 1 << 20)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_files_of_evaluations_are_refused(tmp_path, encoding):
    (tmp_path / "prompts.json").write_bytes('{"joy": ["Tell me."]}'.encode(encoding))
    with pytest.raises(JobError, match=encoding[:6].upper()) as raised:
        read_json("sentiment.prompts", str(tmp_path / "prompts.json"))
    assert raised.value.key == "sentiment.prompts"


@pytest.mark.parametrize("encoding", ["utf-8", *ENCODINGS])
def test_a_prompt_with_nuls_is_refused(tmp_path, encoding):
    (tmp_path / "p.jinja").write_bytes("Write\0 about {{ text }}".encode(encoding))
    with pytest.raises(JobError, match="not UTF-8 text"):
        JinjaPrompt(str(tmp_path / "p.jinja"))


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "\ufefftext", "\u00e9t\u00e9", "{", "\n\n"])
def test_utf8_is_not_taken_for_another(text):
    assert wide_encoding(text.encode()) == ""


def test_a_text_with_a_nul_is_a_row_with_a_fault_in_every_format(tmp_path):
    rows = [{"text": "a", "n": ["x"]}, {"text": "b\0c", "n": ["x"]}, {"text": "d", "n": ["e\0"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_bytes(b"text,n\na,x\nb\0c,x\nd,e\0\n")
    (tmp_path / "e.tsv").write_bytes(b"text\tn\na\tx\nb\0c\tx\nd\te\0\n")
    for path in sorted(tmp_path.iterdir()):
        found = [row for _, _, row in InputReader(Input(path=str(path)), ["text", "n"]).all_rows()]
        assert [row.values is None for row in found] == [False, True, True], path
        assert found[1].fault == found[2].fault == "a text has a NUL character"
    (tmp_path / "f.txt").write_bytes(b"a\nb\0c\n\0\n")
    found = [row for _, _, row in InputReader(Input(path=str(tmp_path / "f.txt")), ["text"]).all_rows()]
    assert [row.values is None for row in found] == [False, True, True]


def test_a_text_of_a_json_document_has_no_nul_either():
    with pytest.raises(RowError, match="the text has a NUL character"):
        text_cell({"the text": "a\0b"}, "the text")


def test_stats_counts_a_text_with_a_nul_as_unreadable(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b\\u0000c"}\n')
    rows = corpus_rows(str(tmp_path / "a.jsonl"), "text", None)
    assert [text for text, *_ in rows] == ["a"] and rows.unreadable == 1 and rows.without_text == 0


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["csv", "txt", "jsonl", "json"])
def test_a_file_in_an_encoding_that_the_job_names_has_the_same_rows(tmp_path, encoding, ending):
    texts = ["café", "naïve" * 40_000, "Köln"]  # the second is longer than a block
    content = {
        "csv": "\r\n".join(["text", *texts]), "txt": "\n".join(texts),
        "jsonl": "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts),
        "json": json.dumps([{"text": text} for text in texts], ensure_ascii=False),
    }[ending]  # fmt: skip
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content.encode(encoding))
    reader = InputReader(Input(path=str(path), encoding=encoding), ["text"])
    assert [row.values["text"] for _, _, row in reader.all_rows()] == texts


@pytest.mark.parametrize(("encoding", "wrong"), [("cp1252", b"b\x81d"), ("ascii", b"caf\xe9")])
def test_bytes_that_are_wrong_in_the_named_encoding_spoil_their_row_alone(tmp_path, encoding, wrong):
    (tmp_path / "rows.txt").write_bytes(b"good\n" + wrong + b"\nagain\n")
    reader = InputReader(Input(path=str(tmp_path / "rows.txt"), encoding=encoding), ["text"])
    assert [bool(row.fault) for _, _, row in reader.all_rows()] == [False, True, False]


def test_an_encoding_that_does_not_fit_is_one_error(tmp_path):
    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "rows.csv").write_bytes("text,größe\na,b\n".encode("cp1252"))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "rows.parquet")
    for name, encoding, cause in (
        ("rows.txt", "cp12525", "no such text encoding"), ("rows.txt", "rot13", "no such text encoding"),
        ("rows.parquet", "cp1252", "is no text file"), ("rows.csv", "utf-16", "not utf-16 text"),
        ("rows.csv", None, "header is not UTF-8"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=cause):
            InputReader(Input(path=str(tmp_path / name), encoding=encoding), ["text"])


def test_init_guesses_the_encoding_of_a_spreadsheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_bytes("text\ncafé crème\n".encode("cp1252"))
    (tmp_path / "b.csv").write_bytes("text\ncafé crème\n".encode("utf-16"))
    (tmp_path / "c.csv").write_bytes("text\ncafé crème\n".encode())
    for name, encoding in (("a", "cp1252"), ("b", "utf-16"), ("c", None)):
        job = yaml.safe_load(new_job(f"{name}.csv", f"{name}.yaml").files[f"{name}.yaml"])
        assert job["input"].get("encoding") == encoding

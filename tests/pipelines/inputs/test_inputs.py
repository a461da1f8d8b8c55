import bz2
import gzip
import io
import itertools
import json
import lzma
import re
import tempfile
from pathlib import Path
from typing import get_args

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inputs import json_format, jsonl_format, lines
from pipelines.inputs.formats import FORMATS
from pipelines.inputs.reader import InputReader
from pipelines.inputs.sources import NOT_UTF8
from schemas.errors import JobError
from schemas.job import Input


def reader(path, fields=("text",), optional=(), **section):
    path = [str(p) for p in path] if isinstance(path, list) else str(path)
    return InputReader(Input(path=path, **section), list(fields), optional)


def all_rows(inputs):
    return list(inputs.all_rows())


def values_of(inputs):
    return [row.values for _, _, row in all_rows(inputs)]


def texts(inputs):
    return [row.values["text"] for _, _, row in all_rows(inputs)]


def error_of(call):
    with pytest.raises(JobError) as raised:
        call()
    error = raised.value
    assert error.key and error.cause and error.remedy
    return error


def write_bytes(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def write_lines(path, *names):
    return write_bytes(path, "".join(f"{name}\n" for name in names))


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# Parquet


@pytest.fixture
def parquet(tmp_path):
    """1000 rows in row groups of 300: a batch of the reader (256 rows) ends elsewhere than a row group."""
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": [f"row {i}" for i in range(1000)], "n": range(1000), "unread": [None] * 1000})
    pq.write_table(table, path, row_group_size=300)
    assert pq.ParquetFile(path).num_row_groups == 4
    return path


@pytest.mark.parametrize("start", [0, 1, 255, 256, 299, 300, 301, 555, 556, 600, 899, 900, 999])
def test_parquet_is_read_from_any_row(parquet, start):
    inputs = reader(parquet, ["text", "n"])
    expected = [(str(parquet), i, {"text": f"row {i}", "n": i}) for i in range(start, min(start + 350, 1000))]
    found = [(source, index, row.values) for source, index, row in inputs.rows(start, min(start + 350, 1000))]
    assert found == expected


def test_parquet_past_its_end_has_no_rows(parquet):
    assert list(reader(parquet).rows(1000, 1000)) == []


def test_parquet_with_empty_row_groups(tmp_path):
    path = tmp_path / "rows.parquet"
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for names in ([], ["a", "b"], [], ["c"], []):
            writer.write_table(pa.table({"text": names}, schema=schema))
    inputs = reader(path)
    assert texts(inputs) == ["a", "b", "c"]
    assert [row.values["text"] for _, _, row in inputs.rows(2, 3)] == ["c"]


def test_parquet_keeps_lists_and_nulls(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [{"text": None, "labels": ["a", "b"]}, {"text": "x", "labels": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert values_of(reader(path, ["text", "labels"])) == rows


def test_truncated_parquet_is_refused(parquet):
    data = parquet.read_bytes()
    parquet.write_bytes(data[: len(data) // 2])
    error = error_of(lambda: reader(parquet))
    assert (error.key, error.value) == ("input.path", str(parquet))
    assert "cannot be read" in error.cause


def test_parquet_that_is_something_else_is_refused(tmp_path):
    error = error_of(lambda: reader(write_lines(tmp_path / "a.parquet", "no Parquet at all")))
    assert "cannot be read" in error.cause


def test_parquet_damaged_inside_is_one_clear_error(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": [f"row {i}" for i in range(1000)]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle - 64 : middle + 64] = bytes(128)
    path.write_bytes(data)
    inputs = reader(path)
    error = error_of(lambda: list(inputs.rows(0, 1000)))
    assert (error.key, error.value) == ("input.path", str(path))


# JSONL


def test_jsonl_rows_that_cannot_be_read_carry_their_fault(tmp_path):
    lines = [
        b'{"text": "first"}', b'{"text": "torn', b"", b"   \t", b"[1, 2]", b'"words"', b'{"text": "caf\xe9"}', b"null",
        b'{"other": 1}', '{"text": "zo\u00eb"}'.encode(), b"[" * 100_000,
    ]  # fmt: skip
    path = write_bytes(tmp_path / "a.jsonl", b"\n".join(lines))
    rows = [(index, row.values, row.fault) for _, index, row in all_rows(reader(path))]
    assert [index for index, _, _ in rows] == list(range(9))
    assert [values for _, values, _ in rows] == [
        {"text": "first"}, None, None, None, None, None, {"text": None}, {"text": "zo\u00eb"}, None,
    ]  # fmt: skip
    faults = [fault for _, _, fault in rows]
    assert faults[1].startswith("the line is not JSON: ")
    assert faults[2] == "the line is a JSON list, not an object"
    assert faults[3] == "the line is a JSON str, not an object"
    assert faults[4] == f"the line is not {NOT_UTF8}"
    assert "not an object" in faults[5]
    assert [i for i, fault in enumerate(faults) if not fault] == [0, 6, 7]
    assert faults[8]


def test_jsonl_without_a_newline_at_its_end(tmp_path):
    assert texts(reader(write_bytes(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b"}'))) == ["a", "b"]


def test_jsonl_with_a_byte_order_mark_and_crlf(tmp_path):
    path = write_bytes(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert texts(reader(path)) == ["a", "b"]


def test_byte_order_marks_of_joined_files_are_no_text(tmp_path):
    assert texts(reader(write_bytes(tmp_path / "a.txt", "\ufeffa\n\ufeffb\n"))) == ["a", "b"]
    path = write_bytes(tmp_path / "a.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}\n')
    assert texts(reader(path)) == ["a", "b"]


def test_jsonl_columns_may_differ_between_rows(tmp_path):
    path = write_bytes(tmp_path / "a.jsonl", jsonl([{"text": "a"}, {"text": "b", "more": 1}]))
    assert values_of(reader(path, ["text", "more"])) == [{"text": "a", "more": None}, {"text": "b", "more": 1}]


# JSON lists


def test_a_json_list_is_a_row_an_object(tmp_path):
    items = [{"text": "a"}, {"text": "b", "more": [1]}, 7, None, [{"text": "c"}], {"more": 2}]
    path = write_bytes(tmp_path / "a.json", b"\xef\xbb\xbf" + json.dumps(items, indent=1).encode())
    inputs = reader(path, ["text", "more"])
    assert [(row.values, row.fault) for _, _, row in all_rows(inputs)] == [
        ({"text": "a", "more": None}, ""),
        ({"text": "b", "more": [1]}, ""),
        (None, "the item is a JSON int, not an object"),
        (None, "the item is a JSON NoneType, not an object"),
        (None, "the item is a JSON list, not an object"),
        ({"text": None, "more": 2}, ""),
    ]
    assert [index for _, index, _ in inputs.rows(1, 3)] == [1, 2]


def test_a_compressed_json_list(tmp_path):
    packed = write_bytes(tmp_path / "a.json.gz", gzip.compress(json.dumps([{"text": "a"}]).encode()))
    assert texts(reader(packed)) == ["a"]


def test_a_json_file_counts_only_where_it_is_named(tmp_path):
    named = write_bytes(tmp_path / "info.json", '[{"text": "b"}]')
    assert "*.json" in error_of(lambda: reader(tmp_path)).remedy
    write_bytes(tmp_path / "rows.jsonl", '{"text": "a"}\n')
    assert texts(reader(tmp_path)) == ["a"]
    assert texts(reader(named)) == texts(reader(tmp_path / "*.json")) == ["b"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('[{"text": "a"', "not valid JSON"),
        ("", "the file is empty"),
        ('{"text": "a"}', "holds one JSON object"),
        ('{"text": "a"}\n{"text": "b"}\n', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[%s]" % ("9" * 5000), "not valid JSON"),
        (b'[{"text": "caf\xe9"}]', "cannot be read"),
        ("[]", "no rows"),
    ],
)
def test_a_json_file_that_is_no_list_of_objects_is_refused(tmp_path, text, cause):
    path = write_bytes(tmp_path / "a.json", text)
    error = error_of(lambda: reader(path))
    assert str(error.value).endswith("a.json") and cause in error.cause and len(str(error)) < 1000


def test_a_json_list_is_bounded(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "a.json", json.dumps([{"text": "a" * 100}]))
    monkeypatch.setattr(json_format, "MAX_JSON_BYTES", path.stat().st_size)
    assert len(texts(reader(path))) == 1
    monkeypatch.setattr(json_format, "MAX_JSON_BYTES", path.stat().st_size - 1)
    error = error_of(lambda: reader(path))
    assert "larger than" in error.cause and "JSONL" in error.remedy


# CSV


def test_csv_cells_with_newlines_commas_and_quotes(tmp_path):
    path = write_bytes(tmp_path / "a.csv", 'text,n\n"two\nlines, ""quoted""",1\r\n\nplain,2\n')
    assert values_of(reader(path, ["text", "n"])) == [
        {"text": 'two\nlines, "quoted"', "n": "1"}, {"text": "plain", "n": "2"},
    ]  # fmt: skip


def test_csv_rows_with_the_wrong_number_of_cells_carry_their_fault(tmp_path):
    path = write_bytes(tmp_path / "a.csv", "text,n\na,1\nb\nc,1,2\nd,4\n")
    rows = [(row.values, row.fault) for _, _, row in all_rows(reader(path, ["text", "n"]))]
    assert rows == [
        ({"text": "a", "n": "1"}, ""),
        (None, "the row has 1 cells and the header 2"),
        (None, "the row has 3 cells and the header 2"),
        ({"text": "d", "n": "4"}, ""),
    ]


def test_a_csv_cell_that_is_not_utf8_spoils_its_row_alone(tmp_path):
    path = write_bytes(tmp_path / "a.csv", b"text,n\ngood,1\ncaf\xe9,2\ngood again,3\n")
    rows = [(row.values, row.fault) for _, _, row in all_rows(reader(path))]
    assert rows == [({"text": "good"}, ""), (None, f"the row is not {NOT_UTF8}"), ({"text": "good again"}, "")]


def test_a_csv_header_that_names_a_column_twice_is_refused(tmp_path):
    path = write_bytes(tmp_path / "a.csv", "text,n,text\na,1,b\n")
    error = error_of(lambda: reader(path))
    assert (error.key, error.value) == ("input.path", str(path))
    assert "'text' twice" in error.cause


def test_csv_with_a_byte_order_mark(tmp_path):
    assert texts(reader(write_bytes(tmp_path / "a.csv", b"\xef\xbb\xbftext,n\na,1\n"))) == ["a"]


def test_tsv_is_split_at_tabs(tmp_path):
    path = write_bytes(tmp_path / "a.tsv", "text\tn\na, b\t1\n")
    assert values_of(reader(path, ["text", "n"])) == [{"text": "a, b", "n": "1"}]


def test_csv_in_a_folder_named_like_a_tsv_is_split_at_commas(tmp_path):
    path = write_bytes(tmp_path / "old.tsv.d" / "a.csv", "text,n\na,1\n")
    assert texts(reader(path)) == ["a"]


def test_csv_with_a_very_long_cell(tmp_path):
    path = write_bytes(tmp_path / "a.csv", f"text\n{'x' * 300_000}\n")
    assert [len(text) for text in texts(reader(path))] == [300_000]


# Text


def test_text_is_a_row_a_line_without_blank_ones(tmp_path):
    path = write_bytes(tmp_path / "a.txt", b"\xef\xbb\xbffirst\r\n\n  \t\r\n  indented \nlast")
    assert texts(reader(path)) == ["first", "  indented ", "last"]


def test_a_text_line_that_is_not_utf8_carries_its_fault(tmp_path):
    path = write_bytes(tmp_path / "a.txt", b"good\ncaf\xe9\nagain\n")
    rows = [(row.values, row.fault) for _, _, row in all_rows(reader(path))]
    assert rows == [({"text": "good"}, ""), (None, f"the line is not {NOT_UTF8}"), ({"text": "again"}, "")]


@settings(max_examples=200, deadline=None)
@given(
    data=st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"bc", b"0123456789"])).map(b"".join), block=st.integers(1, 9)
)
def test_lines_are_bounded_whatever_the_blocks_that_they_are_read_in(data, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK_BYTES", block)
        patch.setattr(lines, "MAX_ROW_BYTES", 12)
        found = list(lines.bounded_lines(io.BytesIO(data)))
    expected = [line.removesuffix(b"\n") for line in io.BytesIO(data)]
    assert found == [line if len(line) <= 12 else None for line in expected]


# Compression


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b\\tc"}\n'),
        ("a.csv", "n,text\n1,a\n2,b\tc\n"),
        ("a.tsv", 'n\ttext\n1\ta\n2\t"b\tc"\n'),
        ("a.txt", "a\nb\tc\n"),
    ],
)
def test_compressed_files(tmp_path, name, content, ending, compress):
    inputs = reader(write_bytes(tmp_path / (name + ending), compress(content.encode())))
    assert texts(inputs) == ["a", "b\tc"]
    assert [row.values["text"] for _, _, row in inputs.rows(1, 2)] == ["b\tc"]


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_damaged_compressed_files_are_refused(tmp_path, ending, compress):
    whole = compress(jsonl({"text": f"{i * i}"} for i in range(2000)).encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2 : len(whole) // 2 + 8] = bytes(8)
    for number, damaged in enumerate((whole[: len(whole) // 2], bytes(flipped), b"no archive at all")):
        path = write_bytes(tmp_path / f"{number}.jsonl{ending}", damaged)
        error = error_of(lambda path=path: reader(path))
        assert (error.key, error.value) == ("input.path", str(path))


def test_zst_without_its_package_is_refused(tmp_path):
    if "zstd" in fsspec.available_compressions():
        pytest.skip("a package for zst is installed")
    error = error_of(lambda: reader(write_bytes(tmp_path / "a.jsonl.zst", b"(\xb5/\xfd")))
    assert "zstandard" in error.cause and "zstandard" in error.remedy


# Which files


def test_globs_are_taken_in_sorted_order(tmp_path):
    for name in ("b", "a10", "c", "a2"):
        write_lines(tmp_path / f"{name}.txt", name)
    write_lines(tmp_path / "skipped.csv", "text", "x")
    (tmp_path / "folder.txt").mkdir()
    assert texts(reader(tmp_path / "*.txt")) == ["a10", "a2", "b", "c"]


def test_a_folder_is_read_to_its_depths_for_known_endings(tmp_path):
    write_lines(tmp_path / "in" / "b.csv", "text", "b")
    write_lines(tmp_path / "in" / "a" / "z.CSV", "text", "z")
    write_bytes(tmp_path / "in" / "c.jsonl.gz", gzip.compress(b'{"text": "c"}\n'))
    write_lines(tmp_path / "in" / "README.md", "no input")
    assert texts(reader(tmp_path / "in")) == ["z", "b", "c"]
    assert texts(reader(tmp_path / "in" / "a" / "**")) == ["z"]


def test_lists_are_taken_in_their_order_and_each_file_once(tmp_path):
    for name in ("a", "b", "c"):
        write_lines(tmp_path / f"{name}.txt", name)
    inputs = reader([tmp_path / "c.txt", tmp_path / "*.txt", tmp_path])
    assert texts(inputs) == ["c", "a", "b"]


def test_files_of_several_formats_are_one_input(tmp_path):
    write_lines(tmp_path / "a.txt", "a")
    write_bytes(tmp_path / "b.jsonl", jsonl([{"text": "b"}]))
    write_bytes(tmp_path / "c.csv", "text\nc\n")
    pq.write_table(pa.table({"text": ["d"]}), tmp_path / "d.parquet")
    inputs = reader([tmp_path / "a.txt", tmp_path])
    assert texts(inputs) == ["a", "b", "c", "d"]
    assert [source for source, _, _ in all_rows(inputs)] == [source.source for source in inputs.inputs]
    assert [index for _, index, _ in all_rows(inputs)] == [0] * 4


def test_a_relative_path_stays_relative(tmp_path, monkeypatch):
    write_lines(tmp_path / "in" / "a.txt", "a")
    monkeypatch.chdir(tmp_path)
    assert [source.source for source in reader("in").inputs] == ["in/a.txt"]
    assert [source.source for source in reader(tmp_path / "in").inputs] == [str(tmp_path / "in" / "a.txt")]


@pytest.mark.parametrize("name", ["rows [1].txt", "what?.txt", "a*b.txt"])
def test_a_file_whose_name_looks_like_a_glob(tmp_path, name):
    assert texts(reader(write_lines(tmp_path / name, "a"))) == ["a"]


def test_the_format_can_be_said(tmp_path):
    path = write_bytes(tmp_path / "a.data", '{"text": "a"}\n')
    assert texts(reader(path, format="jsonl")) == ["a"]
    assert texts(reader(path, format="text")) == ['{"text": "a"}']


def test_the_table_of_formats_has_what_a_job_file_takes_and_each_ending_once():
    names = [file_format.format for file_format in FORMATS]
    assert sorted(["auto", *names]) == sorted(get_args(Input.model_fields["format"].annotation))
    endings = [ending for file_format in FORMATS for ending in file_format.endings]
    assert len(endings) == len(set(endings)) and all(re.fullmatch(r"\.[a-z]+", ending) for ending in endings)


def test_an_unknown_ending_is_refused(tmp_path):
    path = write_lines(tmp_path / "a.data", "x")
    error = error_of(lambda: reader(path))
    assert (error.key, error.value) == ("input.path", str(path))
    assert "input.format to parquet, arrow, jsonl, json, csv or text" in error.remedy


@pytest.mark.parametrize("name", ["absent.txt", "*.txt", "folder"])
def test_where_no_file_is(tmp_path, name):
    (tmp_path / "folder").mkdir()
    error = error_of(lambda: reader(tmp_path / name))
    assert (error.key, error.value, error.cause) == ("input.path", str(tmp_path / name), "no such file")


def test_one_absent_file_of_a_list_is_refused(tmp_path):
    there = write_lines(tmp_path / "a.txt", "a")
    assert error_of(lambda: reader([there, tmp_path / "b.txt"])).value == str(tmp_path / "b.txt")


def test_an_unknown_scheme_is_refused():
    error = error_of(lambda: reader("nosuch://bucket/a.txt"))
    assert (error.key, error.value) == ("input.path", "nosuch://bucket/a.txt")


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\n \n"), ("a.jsonl", ""), ("a.csv", "text\n"), ("b.csv", "")])
def test_an_empty_input_is_refused(tmp_path, name, content):
    path = write_bytes(tmp_path / name, content)
    error = error_of(lambda: reader(path))
    assert (error.key, error.value) == ("input.path", str(path))
    assert "no rows" in error.cause


def test_an_empty_parquet_file_is_refused(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "no rows" in error_of(lambda: reader(tmp_path / "a.parquet")).cause


@pytest.mark.parametrize("limit", [None, 2, 3, 4])
def test_an_empty_file_among_others_does_no_harm(tmp_path, limit):
    for name, names in (("a", []), ("b", ["1", "2"]), ("c", []), ("d", ["3", "4"]), ("e", [])):
        write_bytes(tmp_path / f"{name}.jsonl", jsonl({"text": text} for text in names))
    assert texts(reader(tmp_path, limit=limit)) == ["1", "2", "3", "4"][:limit]


# limit, columns, keep


@pytest.mark.parametrize(
    ("limit", "rows"), [(1, [1]), (3, [3]), (4, [3, 1]), (5, [3, 2]), (6, [3, 2, 1]), (99, [3, 2, 4])]
)
def test_limit_counts_over_all_files(tmp_path, limit, rows):
    for name, count in (("a", 3), ("b", 2), ("c", 4)):
        write_lines(tmp_path / f"{name}.txt", *(f"{name}{i}" for i in range(count)))
    inputs = reader(tmp_path, limit=limit)
    assert [source.rows for source in inputs.inputs] == rows
    everything = [f"{name}{i}" for name, count in (("a", 3), ("b", 2), ("c", 4)) for i in range(count)]
    assert texts(inputs) == everything[:limit]


def test_limit_does_not_change_what_identifies_a_file(tmp_path):
    path = write_lines(tmp_path / "a.txt", "a", "b", "c")
    assert reader(path, limit=1).inputs[0].content == reader(path).inputs[0].content


def test_content_identifies_a_file(tmp_path):
    path = write_lines(tmp_path / "a.txt", "a", "b")
    before = reader(path).inputs[0].content
    write_lines(path, "a", "c")
    assert reader(path).inputs[0].content != before
    write_lines(path, "a", "b")
    assert reader(path).inputs[0].content == before


@pytest.fixture
def labelled(tmp_path):
    rows = [{"sentence": "s", "emotions": ["joy"], "source": "book", "n": 1}]
    return write_bytes(tmp_path / "a.jsonl", jsonl(rows))


def test_columns_map_fields_and_keep_carries_others(labelled):
    inputs = reader(
        labelled, ["context", "emotion"], columns={"context": "sentence", "emotion": "emotions"}, keep=["source"]
    )
    assert values_of(inputs) == [{"context": "s", "emotion": ["joy"], "source": "book"}]


def test_an_optional_field_may_have_no_column(labelled, tmp_path):
    assert values_of(reader(labelled, ["sentence", "mood"], ["mood"])) == [{"sentence": "s", "mood": None}]
    assert values_of(reader(labelled, ["sentence", "source"], ["source"])) == [{"sentence": "s", "source": "book"}]
    error = error_of(lambda: reader(labelled, ["sentence", "mood"], ["mood"], columns={"mood": "moods"}))
    assert error.key == "input.columns.mood"
    assert error_of(lambda: reader(labelled, ["sentence", "mood"], ["mood"], keep=["mood"])).value == "mood"
    assert error_of(lambda: reader(labelled, ["mood", "sentense"], ["mood"])).value == "sentense"


def test_an_optional_field_may_be_in_some_rows_alone(tmp_path):
    # Long after the lines that are looked at to learn which columns there are.
    rows = [{"s": str(i)} for i in range(300)]
    rows[250]["m"] = "here"
    write_bytes(tmp_path / "a.jsonl", jsonl(rows))
    write_bytes(tmp_path / "b.json", json.dumps(rows))
    write_bytes(tmp_path / "c.csv", "s\n1\n")
    found = values_of(reader([tmp_path / name for name in ("a.jsonl", "b.json", "c.csv")], ["s", "m"], ["m"]))
    assert [number for number, row in enumerate(found) if row["m"]] == [250, 550]


def test_two_fields_may_share_a_column(labelled, tmp_path):
    pq.write_table(pa.table({"sentence": ["s"]}), tmp_path / "b.parquet")
    for path in (labelled, tmp_path / "b.parquet"):
        inputs = reader(path, ["a", "b"], columns={"a": "sentence", "b": "sentence"})
        assert values_of(inputs) == [{"a": "s", "b": "s"}]


def test_a_missing_column_is_told_with_the_nearest(labelled):
    error = error_of(lambda: reader(labelled, ["emotion"]))
    assert (error.key, error.value) == ("input.columns.emotion", "emotion")
    assert "sentence, emotions, source, n" in error.cause
    assert "'emotions'" in error.remedy and "{emotion: <column>}" in error.remedy


def test_a_missing_column_near_to_none(labelled):
    error = error_of(lambda: reader(labelled, ["zzzzzz"]))
    assert "did you mean" not in error.remedy


def test_a_missing_column_in_the_second_file(labelled, tmp_path):
    second = write_bytes(tmp_path / "b.jsonl", jsonl([{"sentense": "s"}]))
    error = error_of(lambda: reader([labelled, second], ["sentence"]))
    assert str(second) in error.cause and "'sentense'" in error.remedy


def test_a_missing_column_to_keep(labelled):
    assert error_of(lambda: reader(labelled, ["sentence"], keep=["sourc"])).value == "sourc"


def test_a_field_that_the_recipe_lacks(labelled):
    error = error_of(lambda: reader(labelled, ["sentence"], columns={"contxt": "sentence"}))
    assert (error.key, error.value) == ("input.columns.contxt", "sentence")
    assert "sentence" in error.remedy and "input.keep" in error.remedy


def test_rows_without_any_column_are_still_rows(labelled, parquet):
    assert values_of(reader(labelled, [])) == [{}]
    assert values_of(reader(parquet, [])) == [{}] * 1000


# Other file systems, datasets, files that change


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.mkdir("/inputs-test")
    yield fs
    fs.rm("/inputs-test", recursive=True)


def test_a_remote_file_system(memory):
    memory.pipe_file("/inputs-test/b.jsonl", b'{"text": "b"}\n')
    memory.pipe_file("/inputs-test/a.csv.gz", gzip.compress(b"text\na1\na2\n"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["c1", "c2"]}), sink)
    memory.pipe_file("/inputs-test/c.parquet", sink.getvalue().to_pybytes())
    for path in ("memory://inputs-test", "memory://inputs-test/*", "memory:///inputs-test/**"):
        inputs = reader(path)
        assert texts(inputs) == ["a1", "a2", "b", "c1", "c2"]
        assert [source.source for source in inputs.inputs] == [
            f"memory:///inputs-test/{name}" for name in ("a.csv.gz", "b.jsonl", "c.parquet")
        ]
    again = reader("memory://inputs-test")
    assert [source.content for source in again.inputs] == [source.content for source in inputs.inputs]


def test_no_such_remote_file(memory):
    assert error_of(lambda: reader("memory://inputs-test/absent.txt")).cause == "no such file"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_bytes(tmp_path / "set" / "train.jsonl", jsonl({"text": f"t{i}", "n": i} for i in range(600)))
    write_bytes(tmp_path / "set" / "test.jsonl", jsonl([{"text": "held out", "n": 0}]))
    return str(tmp_path / "set")


def dataset_reader(dataset, fields=("text",), optional=(), **section):
    return InputReader(Input(dataset=dataset, **section), list(fields), optional)


def test_a_hugging_face_dataset(dataset):
    inputs = dataset_reader(dataset, keep=["n"])
    assert [(source.source, source.rows) for source in inputs.inputs] == [(f"{dataset}:train", 600)]
    found = [(source, index, row.values) for source, index, row in inputs.rows(250, 590)]
    assert found == [(f"{dataset}:train", i, {"text": f"t{i}", "n": i}) for i in range(250, 590)]
    assert texts(dataset_reader(dataset, split="test")) == ["held out"]
    assert texts(dataset_reader(dataset, split="train[10:12]")) == ["t10", "t11"]
    assert texts(dataset_reader(dataset, limit=2)) == ["t0", "t1"]
    assert values_of(dataset_reader(dataset, ["n", "input"], ["input"], limit=1)) == [{"n": 0, "input": None}]


def test_a_dataset_is_identified_by_its_rows(dataset):
    content = dataset_reader(dataset).inputs[0].content
    assert dataset_reader(dataset).inputs[0].content == content
    assert dataset_reader(dataset, split="train[:599]").inputs[0].content != content


def test_dataset_columns(dataset):
    shared = dataset_reader(dataset, ["a", "b"], columns={"a": "text", "b": "text"}, limit=1)
    assert values_of(shared) == [{"a": "t0", "b": "t0"}]
    assert values_of(dataset_reader(dataset, [], limit=2)) == [{}, {}]
    error = error_of(lambda: dataset_reader(dataset, ["txt"]))
    assert error.key == "input.columns.txt" and "'text'" in error.remedy


@pytest.mark.parametrize(("dataset_id", "split"), [(None, "absent"), ("/no/such/folder", "train")])
def test_a_dataset_that_cannot_be_loaded(dataset, dataset_id, split):
    error = error_of(lambda: dataset_reader(dataset_id or dataset, split=split))
    assert (error.key, error.value) == ("input.dataset", dataset_id or dataset)
    assert "could not load" in error.cause


def shorter_jsonl(path, count):
    write_bytes(path, jsonl({"text": f"{i}"} for i in range(count)))


def shorter_csv(path, count):
    write_lines(path, "text", *range(count))


def shorter_text(path, count):
    write_lines(path, *range(count))


def shorter_parquet(path, count):
    pq.write_table(pa.table({"text": [f"{i}" for i in range(count)]}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", shorter_jsonl), ("a.csv", shorter_csv), ("a.txt", shorter_text), ("a.parquet", shorter_parquet)],
)
def test_a_file_that_shrank_since_the_plan(tmp_path, name, write):
    path = tmp_path / name
    write(path, 10)
    inputs = reader(path)
    write(path, 6)
    assert [row.values["text"] for _, _, row in inputs.rows(0, 6)] == list("012345")
    for start in (3, 8):
        error = error_of(lambda start=start: list(inputs.rows(start, 10)))
        assert (error.key, error.value) == ("input", str(path))
        assert "10 rows when the run was planned" in error.cause


def test_a_file_that_vanished_since_the_plan(tmp_path):
    path = write_lines(tmp_path / "a.txt", "a")
    inputs = reader(path)
    path.unlink()
    assert error_of(lambda: all_rows(inputs)).key == "input.path"


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 7),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    formats=st.lists(st.sampled_from(["jsonl", "parquet"]), min_size=4, max_size=4),
    limit=st.none() | st.integers(1, 90),
)
def test_any_range_is_a_slice_of_all_rows(counts, group, ends, formats, limit):
    with tempfile.TemporaryDirectory() as folder:
        paths, everything = [], []
        for number, (count, form) in enumerate(zip(counts, formats, strict=False)):
            path = Path(folder) / f"{number}.{form}"
            rows = [f"{number}/{i}" for i in range(count)]
            if form == "jsonl":
                write_bytes(path, "\n".join(json.dumps({"text": row}) + "\n" for row in rows))
            else:
                pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), path, row_group_size=group)
            paths.append(path)
            everything += [(str(path), i, row) for i, row in enumerate(rows)]
        everything = everything[:limit]
        inputs = reader(paths, limit=limit)
        assert sum(source.rows for source in inputs.inputs) == len(everything)
        start, end = sorted(round(part * len(everything)) for part in ends)
        for low, high in itertools.pairwise((0, start, end, len(everything))):
            found = [(source, index, row.values["text"]) for source, index, row in inputs.rows(low, high)]
            assert found == everything[low:high]


# One way through each file


class Counted(io.FileIO):
    """Counts the bytes that are read of it."""

    read_bytes = 0

    def readinto(self, buffer):
        count = super().readinto(buffer)
        Counted.read_bytes += count
        return count


@pytest.fixture
def opened(monkeypatch):
    """Paths in the order that files are opened in, by the reader of rows and nobody else."""
    paths = []

    def open_counted(fs, path, mode="rb", compression=None, **options):
        paths.append(path)
        return io.BufferedReader(Counted(path), 1 << 10)

    monkeypatch.setattr(LocalFileSystem, "open", open_counted)
    monkeypatch.setattr(Counted, "read_bytes", 0)
    return paths


def many_rows(path, count):
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": [f"{i}" for i in range(count)]}), path, row_group_size=1000)
    elif path.suffix == ".csv":
        write_lines(path, "text", *range(count))
    else:
        write_bytes(path, jsonl({"text": f"{i}"} for i in range(count)))
    return path


@pytest.mark.parametrize("kept", [1, 2, 7])
@pytest.mark.parametrize("ending", ["jsonl", "txt", "csv", "parquet"])
def test_range_after_range_opens_and_reads_each_file_once(tmp_path, opened, ending, kept):
    """With all ranges, every second, and every seventh."""
    paths = [many_rows(tmp_path / f"{name}.{ending}", 5000) for name in "ab"]
    inputs = reader(paths)
    opened.clear()
    Counted.read_bytes = 0
    cursor = inputs.cursor()
    starts = range(0, 10_000, 10 * kept)
    found = [row for start in starts for row in cursor.rows(start, start + 10)]
    expected = [i for start in starts for i in range(start, min(start + 10, 10_000))]
    assert [index + 5000 * (source == str(paths[1])) for source, index, _ in found] == expected
    assert opened == [str(path) for path in paths]
    assert Counted.read_bytes < 1.3 * sum(path.stat().st_size for path in paths) + 4 * 65_536


def test_rows_that_are_passed_over_are_not_parsed(tmp_path, monkeypatch):
    inputs = reader(many_rows(tmp_path / "a.jsonl", 1000))
    parsed = []
    monkeypatch.setattr(jsonl_format.json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    cursor = inputs.cursor()
    for start in (100, 500, 990):
        assert [row.values["text"] for _, _, row in cursor.rows(start, start + 2)] == [f"{start}", f"{start + 1}"]
    assert len(parsed) == 6


def test_row_groups_that_are_passed_over_are_not_read(tmp_path, opened):
    path = many_rows(tmp_path / "a.parquet", 100_000)
    inputs = reader(path)
    Counted.read_bytes = 0
    cursor = inputs.cursor()
    for start in (0, 50_500, 99_999):
        assert [row.values["text"] for _, _, row in cursor.rows(start, start + 1)] == [f"{start}"]
    assert Counted.read_bytes < path.stat().st_size / 4


def test_a_dataset_is_read_from_range_to_range(dataset):
    cursor = dataset_reader(dataset).cursor()
    for start, end in ((0, 3), (3, 10), (254, 258), (512, 512), (520, 600), (7, 9)):
        assert [row.values["text"] for _, _, row in cursor.rows(start, end)] == [f"t{i}" for i in range(start, end)]


def test_a_cursor_tells_where_a_file_ends_now(tmp_path):
    path = many_rows(tmp_path / "a.jsonl", 100)
    inputs = reader(path)
    many_rows(path, 60)
    for ranges in ([(0, 50), (50, 70)], [(0, 10), (80, 90)], [(99, 100)], [(60, 61)]):
        cursor = inputs.cursor()
        *good, last = ranges
        assert all(len(list(cursor.rows(*each))) == each[1] - each[0] for each in good)
        error = error_of(lambda cursor=cursor, last=last: list(cursor.rows(*last)))
        assert error.cause == "it had 100 rows when the run was planned and ends after 60 now"


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    ends=st.lists(st.integers(0, 50), min_size=2, max_size=12),
    formats=st.lists(st.sampled_from(["jsonl", "parquet", "csv"]), min_size=4, max_size=4),
    forward=st.booleans(),
)
def test_a_cursor_gives_the_rows_of_any_ranges_in_any_order(counts, ends, formats, forward):
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            many_rows(Path(folder) / f"{n}.{form}", count)
            for n, (count, form) in enumerate(zip(counts, formats, strict=False))
        ]
        everything = [(str(path), i, f"{i}") for path, count in zip(paths, counts, strict=True) for i in range(count)]
        # Sorted, each range begins where the one before it ends, or later; else they jump to and fro.
        ends = [min(end, len(everything)) for end in (sorted(ends) if forward else ends)]
        cursor = reader(paths).cursor()
        for low, high in zip(ends[::2], ends[1::2], strict=False):
            found = [(source, index, row.values["text"]) for source, index, row in cursor.rows(low, max(low, high))]
            assert found == everything[low : max(low, high)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_all_columns_are_kept(tmp_path, ending):
    rows = [{"body": "a", "n": "1", "Ticket ID": "x"}, {"body": "b", "n": "2", "Ticket ID": "y"}]
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "csv":
        path.write_text("body,n,Ticket ID\na,1,x\nb,2,y\n")
    else:
        rows += [{**rows[0], "late": "z"}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = values_of(reader(path, keep="all", columns={"text": "body", "id": "Ticket ID"}))
    assert found == [{"text": row.pop("body"), "id": row.pop("Ticket ID"), **row} for row in rows]


def test_a_column_that_a_field_hides_cannot_be_kept(tmp_path):
    path = write_bytes(tmp_path / "a.csv", b"text,body\nx,y\n")
    with pytest.raises(JobError, match="has the name of a field, which is read from 'body'"):
        reader(path, keep="all", columns={"text": "body"})


def test_all_names_that_are_no_fields_are_listed_at_once(tmp_path):
    path = write_bytes(tmp_path / "a.csv", b"text,n,m\nx,1,2\n")
    with pytest.raises(JobError, match="no such field; nor m") as raised:
        reader(path, columns={"n": "n", "m": "m"})
    assert "input.keep" in raised.value.remedy


def test_bytes_are_no_text(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "img": [{"bytes": b"x"}, {"bytes": None}]}), tmp_path / "a.parquet")
    faults = [row.fault for _, _, row in all_rows(reader(tmp_path / "a.parquet", keep="all"))]
    assert faults == ["img has bytes, not text", ""]

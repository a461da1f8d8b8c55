"""CSV and TSV files: quotes around cells, quotes as characters, delimiters; no line is swallowed in silence."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.files import read_table
from pipelines.inputs.csv_records import Dialect, csv_records
from pipelines.inputs.reader import InputReader
from pipelines.training.labelled_texts import read_splits
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.evaluate import Responses
from schemas.fingerprint import identity_of
from schemas.job import Input
from schemas.train import LabelledTexts

SWALLOWED = 'text\tlabel\n"She left\tsadness\nA plain row.\tjoy\nand never came back"\tjoy\nlast\tjoy\n'


def rows_of(path, fields=("text", "label"), **section):
    return [
        tuple(row.values.values()) if row.values else row.fault
        for _, _, row in InputReader(Input(path=str(path), **section), list(fields)).all_rows()
    ]


def file_of(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    return tmp_path / name


def refused(path, *words, **section):
    with pytest.raises(JobError) as raised:
        rows_of(path, **section)
    for word in words:
        assert word in str(raised.value)


def test_a_quote_that_may_swallow_rows_is_refused_until_the_job_says_what_it_is(tmp_path):
    path = file_of(tmp_path, "a.tsv", SWALLOWED)
    refused(path, "lines 2 to 4", "one row if quotes are around cells, else 3 rows", "the key quotes")
    assert rows_of(path, quotes=False) == [
        ('"She left', "sadness"), ("A plain row.", "joy"), ('and never came back"', "joy"), ("last", "joy"),
    ]  # fmt: skip
    assert rows_of(path, quotes=True) == [
        ("She left\tsadness\nA plain row.\tjoy\nand never came back", "joy"), ("last", "joy"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "tail",
    [
        "She left\tsadness\nno tab here\nand never came back\"\tjoy\n",  # a broken line between
        "She left\tsadness\nA plain row.\tjoy\nand never came back\"\n",  # too few cells with quotes
        "She left\tsadness\n\nand never came back\"\tjoy\n",  # a blank line between
    ],
)  # fmt: skip
def test_lines_that_would_be_rows_are_never_swallowed(tmp_path, tail):
    refused(
        file_of(tmp_path, "a.tsv", f'text\tlabel\nfirst\tjoy\n"{tail}last\tjoy\n'), "lines 3 to 5", "the key quotes"
    )


def test_the_same_in_a_csv_and_in_one_column(tmp_path):
    path = file_of(tmp_path, "a.csv", SWALLOWED.replace("\t", ","))
    refused(path, "lines 2 to 4")
    assert len(rows_of(path, quotes=False)) == 4
    path = file_of(tmp_path, "b.tsv", 'text\n"She left.\nShe never came back."\nlast\n')
    refused(path, "lines 2 to 3", fields=["text"])


def test_in_a_tsv_a_quote_that_is_not_around_a_cell_is_a_character(tmp_path):
    rows = ['"Hello" she said', "a 6'3\" tall man", '"open', '"two" and "three"', 'closed"', "plain"]
    path = file_of(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"{row}\tjoy\n" for row in rows))
    assert [text for text, _ in rows_of(path)] == rows


def test_in_a_csv_it_is_a_fault_of_its_row_or_of_the_file(tmp_path):
    path = file_of(tmp_path, "a.csv", 'text,label\n"Hello" she said,joy\nlast,joy\n')
    fault, last = rows_of(path)
    assert "the quotes of the row do not pair" in fault and "quotes to false" in fault and last == ("last", "joy")
    assert rows_of(path, quotes=False)[0] == ('"Hello" she said', "joy")
    path = file_of(tmp_path, "b.csv", 'text,label\n"open,joy\nlast,joy\n')
    refused(path, "the record that begins in line 2", "set the key quotes to false")
    assert rows_of(path, quotes=False) == [('"open', "joy"), ("last", "joy")]


CELLS = ["plain", "two\nlines", 'she said "no"', '"', "a, b; c", 'first\n\nlast, "quoted"\n', "", "6'3\" tall"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_an_export_of_a_spreadsheet_is_read_as_it_was(tmp_path, delimiter, end, quoting):
    rows = [(cell, "joy") for cell in CELLS] + [("joy, 2", cell) for cell in CELLS]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("text", "label"), *rows])
    path = file_of(tmp_path, "a.tsv" if delimiter == "\t" else "a.csv", file.getvalue())
    assert rows_of(path) == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("other rows have quotes around a delimiter", 'text\n"two\nlines"\n"one, two"\n'),
        ("lines end otherwise in a cell than in the file", 'text\r\n"two\nlines"\r\nlast\r\n'),
        ("the header has quotes", '"text"\n"two\nlines"\n"last"\n'),
    ],
)
def test_what_proves_that_quotes_are_around_cells(tmp_path, name, content):
    assert rows_of(file_of(tmp_path, "a.csv", content), ["text"])[0] == ("two\nlines",)


def test_a_row_that_contradicts_takes_the_proof_away(tmp_path):
    path = file_of(tmp_path, "a.csv", 'text\n"two\nlines"\n"one, two"\n"no" proof\n')
    refused(path, "lines 2 to 3", fields=["text"])


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", ","), ("a.tsv", ";")]
)
def test_the_delimiter_that_the_header_has_is_taken(tmp_path, name, delimiter):
    content = 'text,label\n"a, b",joy\n3 5,joy\n'.replace(",", delimiter)
    assert rows_of(file_of(tmp_path, name, content)) == [(f"a{delimiter} b", "joy"), ("3 5", "joy")]


def test_a_header_with_several_delimiters_takes_the_usual_one_or_that_of_the_job(tmp_path):
    path = file_of(tmp_path, "a.csv", "text;a,label;b\n1;2,3;4\n")
    assert rows_of(path, ["text;a", "label;b"]) == [("1;2", "3;4")]
    assert rows_of(path, ["text", "b"], delimiter=";") == [("1", "4")]
    path = file_of(tmp_path, "b.csv", '"text;all";label\n1;2\n')
    assert rows_of(path, ["text;all", "label"]) == [("1", "2")]


@pytest.mark.parametrize("delimiter", ['"', "", ";;", "\n"])
def test_a_delimiter_is_one_character(delimiter):
    with pytest.raises(ValueError):
        Input(path="a.csv", delimiter=delimiter)


def test_the_dialect_is_part_of_the_fingerprint_where_it_is_named():
    plain, named = (
        identity_of({"input": Input(path="a.csv", **keys).model_dump(mode="json")})
        for keys in ({}, {"delimiter": ";", "quotes": False})
    )
    assert {key: value for key, value in named.items() if key not in plain} == {
        "input.delimiter": ";", "input.quotes": False,
    }  # fmt: skip


def test_the_trainer_reads_goemotions_by_the_same_rule(tmp_path):
    joy = EMOTIONS.index("joy")
    lines = ['"He said ""no"" to me"', '"Hello" she said', "plain", '"open']
    path = file_of(tmp_path, "train.tsv", "".join(f"{line}\t{joy}\tid{n}\n" for n, line in enumerate(lines)))
    section = {"train": str(path), "dev": str(path), "test": str(path)}
    texts = ['He said "no" to me', '"Hello" she said', "plain", '"open']
    assert read_splits(LabelledTexts(**section)).train.texts == texts
    assert read_splits(LabelledTexts(**section, quotes=False)).train.texts == lines
    path.write_text(SWALLOWED.partition("\n")[2].replace("sadness", "25").replace("joy", str(joy)))
    with pytest.raises(JobError, match="lines 1 to 3 are one row if quotes are around cells, else 3 rows"):
        read_splits(LabelledTexts(**section))
    assert len(read_splits(LabelledTexts(**section, quotes=False)).train.texts) == 4


def test_an_evaluation_names_the_dialect_too(tmp_path):
    path = file_of(tmp_path, "a.tsv", SWALLOWED)
    keys = {"path": str(path), "columns": {"response": "text", "emotion": "label"}}
    for more, rows in (({}, 0), ({"quotes": False}, 4), ({"quotes": True}, 2)):
        section = Responses(**keys, **more)
        if rows:
            assert len(list(read_table("responses.path", section.path, section, ["response", "emotion"]))) == rows
            continue
        with pytest.raises(JobError, match="the key quotes"):
            list(read_table("responses.path", section.path, section, ["response", "emotion"]))


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.sampled_from(['"', "\t", ",", "\n", "\r\n", "a", "b c", '""'])).map("".join),
    delimiter=st.sampled_from(["\t", ","]),
    quotes=st.sampled_from([None, True, False]),
)
def test_every_line_is_in_a_record_or_the_file_is_refused(text, delimiter, quotes):
    """Whatever quotes there are: without an error, letters of all lines are in the records or in faults of one line."""
    dialect = Dialect(delimiter, quotes)
    try:
        records = list(csv_records("a", lambda: io.BytesIO(text.encode()), dialect))
    except csv.Error:
        return
    faults = records.count(None)
    letters = sum(cell.count("a") + cell.count("b") for record in records if record for cell in record)
    expected = text.count("a") + text.count("b")
    assert letters == expected or (faults and letters < expected)
    if quotes is False:
        lines = [line for line in io.StringIO(text, newline="") if line.strip("\r\n")]
        assert records == [line.rstrip("\r\n").split(delimiter) for line in lines]

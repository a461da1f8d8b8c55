"""`kindling compose`: parts written directly, and the corpora made of them."""

import gzip
import json
import os
from pathlib import Path

import fsspec
import polars
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import compose
from pipelines.corpora.documents import Document
from pipelines.corpora.word_budget import Choice, survey, words_asked
from schemas.compose import ComposeJob
from schemas.composition import CORPUS_SCHEMA
from schemas.errors import JobError, KindlingError, RunError, StoppedError
from schemas.job_parsing import parse_job
from services.storage import filesystem
from services.storage.store import ShardStore, shard_path
from tests.support.files import write_job
from tests.support.runs import RUN_FINGERPRINT, make_run, write_run


@pytest.fixture
def job(tmp_path):
    """40 stories of 10 words and 60 facts of 5, as a job to change."""
    run = write_run(tmp_path / "run", [" ".join([f"story{i}"] * 10) for i in range(40)])
    facts = tmp_path / "facts.txt"
    facts.write_text("".join(" ".join([f"fact{i}"] * 5) + "\n\n" for i in range(60)))
    return {
        "name": "corpus",
        "words": 1000,
        "parts": {"stories": {"run": run}, "facts": {"input": {"path": str(facts)}}},
        "output": {"path": str(tmp_path / "corpus")},
    }


def documents_in(folder):
    files = sorted(Path(folder, "data").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def refused(job, kind=JobError):
    output = Path(job["output"]["path"])
    before = sorted(output.rglob("*")) if output.exists() else None
    with pytest.raises(KindlingError) as raised:
        compose(job)
    assert type(raised.value) is kind and raised.value.cause and raised.value.remedy
    assert (sorted(output.rglob("*")) if output.exists() else None) == before
    assert list(output.parent.glob(".*.tmp")) == []
    return raised.value


# How much of each part


def test_every_document_is_there_with_where_it_came_from(job, tmp_path):
    made = compose({**job, "words": 700, "parts": {n: {**p, "words": "all"} for n, p in job["parts"].items()}})
    rows = documents_in(tmp_path / "corpus")
    assert len(rows) == 100 and made.words == sum(row["words"] for row in rows) == 700
    stories = [row for row in rows if row["part"] == "stories"]
    assert [row["row_index"] for row in stories] == list(range(40))
    assert stories[7] == {
        "text": " ".join(["story7"] * 10), "words": 10, "part": "stories", "fingerprint": RUN_FINGERPRINT,
        "source": "in.jsonl", "row_index": 7, "sample": 0, "variant": "default",
    }  # fmt: skip
    fact = next(row for row in rows if row["text"].startswith("fact9 "))
    path = job["parts"]["facts"]["input"]["path"]
    assert (fact["source"], fact["row_index"], fact["variant"], fact["words"]) == (path, 9, "", 5)
    assert made.parts["facts"].content[path] == f"60 rows, {fact['fingerprint']}"
    assert pq.read_schema(tmp_path / "corpus" / "data" / "train-00000.parquet").equals(CORPUS_SCHEMA)


def test_a_part_that_has_more_is_thinned_out_by_the_seed(job, tmp_path):
    chosen = {}
    for seed, folder in [(0, "a"), (0, "b"), (1, "c")]:
        made = compose({**job, "words": 200, "seed": seed, "output": {"path": str(tmp_path / folder)}})
        rows = documents_in(tmp_path / folder)
        assert made.parts["stories"].words == made.parts["facts"].words == 100 and len(rows) == 10 + 20
        chosen[folder] = {(row["part"], row["row_index"]) for row in rows}
    assert chosen["a"] == chosen["b"] != chosen["c"]
    assert max(index for _, index in chosen["a"]) > 30  # from all over, not the first ones
    name = "data/train-00000.parquet"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_any_beginning_is_made_up_as_the_whole(job, tmp_path):
    compose({**job, "words": 400, "parts": {**job["parts"], "facts": {**job["parts"]["facts"], "weight": 0.5}}})
    words = {"stories": 0, "facts": 0}
    for row in documents_in(tmp_path / "corpus"):
        words[row["part"]] += row["words"]
        assert abs(words["stories"] - 2 * words["facts"]) <= 20
    assert words["facts"] == 130 and words["stories"] == 260  # of 133 and 266: no document is cut


def test_a_part_that_runs_dry_is_told(job, tmp_path, kindling):
    path = write_job(tmp_path / "job.yaml", job)
    done = kindling("compose", path)
    assert done.returncode == 0, done.stderr
    assert "700 words of 1,000" in done.stdout
    assert "stories is too small: the job asks for 500 words of it, and it has 400" in done.stdout
    assert [line.split() for line in done.stdout.splitlines()[2:5]] == [
        ["stories", "40", "400", "57.1%", "10.0"], ["facts", "60", "300", "42.9%", "5.0"],
        ["all", "100", "700", "100.0%", "7.0"],
    ]  # fmt: skip
    card = (tmp_path / "corpus" / "README.md").read_text()
    assert "| stories | 40 | 400 | 57.1% | 10.0 |" in card and "- stories is too small: the job asks for 500" in card
    told = json.loads(kindling("compose", path, "--json").stdout)
    assert told["parts"]["stories"]["words_asked"] == 500 and told["parts"]["stories"]["words_there"] == 400
    assert round(sum(part["share"] for part in told["parts"].values()), 6) == 1


def test_the_card_has_the_filters_of_each_run(job, tmp_path):
    rows = [{"text": "a story"}] * 5 + [{"state": "rejected", "reason": "refusal"}] * 3
    run = make_run(tmp_path / "filtered", rows, per_shard=8)
    record = ShardStore(run).read_run()
    record.job = {"quality": {"reject_refusals": True}}
    ShardStore(run).write_run(record)
    compose({**job, "parts": {**job["parts"], "good": {"run": run}}})
    card = (tmp_path / "corpus" / "README.md").read_text()
    assert card.count("\n## Filters of `") == 2 and "## Filters of `stories`\n\nNo rule was set" in card
    good = card[card.index("## Filters of `good`") : card.index("Made from:")]
    assert "| `refusal` | 3 |  | `reject_refusals: True` |" in good and "## Known limits of `good`" in good


def asked(words, there=None, **parts):
    sections = {name: {"input": {"path": "x"}, **part} for name, part in parts.items()}
    job = {"name": "a", "words": words, "parts": sections, "output": {"path": "y"}}
    return words_asked(parse_job(job, ComposeJob), there or {})


def test_fixed_words_come_first_and_weights_share_what_they_leave():
    assert asked(1000, a={"words": 400}, b={"weight": 2}, c={}) == {"a": 400, "b": 400, "c": 200}
    assert asked(1000, {"a": 890}, a={"words": "all"}, b={}) == {"a": 890, "b": 110}
    assert asked(1000, a={"words": 400}) == {"a": 400}


@pytest.mark.parametrize(
    ("words", "parts", "key", "cause"),
    [
        (1000, {"a": {"words": 600}, "b": {"words": 500}}, "words", "its parts ask for 1,100 words"),
        (1000, {"a": {"words": 1000}, "b": {}}, "parts.b", "no word of the budget is left for it"),
        (10, {"a": {"weight": 1}, "b": {"weight": 1000}}, "parts.a", "no word of the budget is left for it"),
    ],
)
def test_a_budget_that_does_not_come_out_is_refused(words, parts, key, cause):
    with pytest.raises(JobError) as raised:
        asked(words, **parts)
    assert (raised.value.key, raised.value.cause) == (key, cause)


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=200)


@settings(deadline=None, max_examples=50)
@given(lengths, st.integers(1, 3000), st.integers(0, 9))
def test_a_choice_is_full_but_for_less_than_a_document_and_never_over(lengths, words, seed):
    documents = [Document("", length, "", "s", index) for index, length in enumerate(lengths)]
    choice = Choice(survey(documents, seed), words, seed)
    taken = sum(document.words for document in documents if choice.takes(document))
    assert taken <= words
    assert taken == sum(lengths) or words - taken < max(lengths)


# What is left out


def test_text_that_is_not_utf8_is_left_out_and_told(job, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("plain line\ncafé\n\nanother plain\n".encode("latin-1") + b"broken \xff\xfe\n")
    job["parts"] = {"facts": {"input": {"path": str(latin)}}}
    made = compose(job)
    assert [row["text"] for row in documents_in(tmp_path / "corpus")] == ["plain line", "another plain"]
    assert (made.parts["facts"].unreadable, made.parts["facts"].documents) == (2, 2)
    assert (
        made.parts["facts"].first_unreadable
        == f"row 1 of {latin}: the line is not UTF-8: another encoding is named in input.encoding, such as cp1252"
    )
    assert "2 documents are left out; the first is row 1" in (tmp_path / "corpus" / "README.md").read_text()


def test_empty_files_among_others_and_other_formats(job, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "more.jsonl").write_text(
        '{"story": "one two"}\n{"story": null}\n{"story": 7}\n{"story": " "}\n{broken\n'
    )
    (tmp_path / "zipped.txt.gz").write_bytes(gzip.compress(b"three four five\n"))
    job["parts"] = {
        "texts": {"input": {"path": [str(tmp_path / "empty.txt"), str(tmp_path / "zipped.txt.gz")]}},
        "table": {"input": {"path": str(tmp_path / "more.jsonl"), "columns": {"text": "story"}}},
    }
    made = compose(job)
    assert sorted(row["text"] for row in documents_in(tmp_path / "corpus")) == ["one two", "three four five"]
    assert made.parts["table"].unreadable == 4 and made.parts["texts"].unreadable == 0


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        (b"", "parts.facts.input.path", "no rows"),
        (b"\n \n", "parts.facts.input.path", "no rows"),
        (b"caf\xe9\n\xff\n", "parts.facts", "none of its 2 documents can be read; row 0 of"),
    ],
)
def test_a_file_without_a_document_is_refused(job, content, key, words):
    Path(job["parts"]["facts"]["input"]["path"]).write_bytes(content)
    error = refused(job)
    assert error.key == key and words in error.cause


def test_documents_longer_than_what_is_asked_are_not_cut(job, tmp_path):
    made = compose({**job, "words": 14})
    assert (made.parts["stories"].documents, made.parts["facts"].words) == (0, 5)
    assert "stories gives nothing" in (tmp_path / "corpus" / "README.md").read_text()
    error = refused({**job, "words": 4, "output": {"path": str(tmp_path / "other")}})
    assert error.key == "words" and "each document is longer" in error.cause


# Runs


def test_one_variant_of_a_sweep(job, tmp_path):
    names = ["temperature=0.3", "temperature=0.9"]
    run = write_run(tmp_path / "sweep", [f"text {i}" for i in range(6)], variants=names, missing=1)
    job["parts"] = {"cool": {"run": run, "variant": names[0]}}
    made = compose(job)
    rows = documents_in(tmp_path / "corpus")
    assert [row["text"] for row in rows] == [f"text {i} temperature=0.3" for i in range(4)]
    assert {row["variant"] for row in rows} == {names[0]}
    assert not made.parts["cool"].complete
    card = (tmp_path / "corpus" / "README.md").read_text()
    assert "- cool: its run was not complete" in card
    job["parts"]["cool"]["variant"] = "temperature=1.2"
    error = refused({**job, "output": {"path": str(tmp_path / "other")}})
    assert error.key == "parts.cool.variant" and names[1] in error.remedy


def test_a_run_without_shards_or_that_is_none_is_refused(job, tmp_path):
    job["parts"]["stories"]["run"] = write_run(tmp_path / "new", ["a"], missing=1)
    assert "no shard yet" in refused(job).cause
    job["parts"]["stories"]["run"] = str(tmp_path / "nothing")
    error = refused(job)
    assert (error.key, error.cause) == ("parts.stories.run", "the folder has no run.json")


def test_a_damaged_shard_is_refused_and_nothing_is_left_there(job):
    path = Path(job["parts"]["stories"]["run"], shard_path("data", 5))
    text = pq.read_metadata(path).row_group(0).column(0)
    whole, last = path.read_bytes(), text.dictionary_page_offset + text.total_compressed_size - 1
    path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    error = refused(job, RunError)
    assert error.key == str(path) and "verify" in error.remedy


# The folder


def test_a_corpus_that_is_there_is_left_alone(job, tmp_path):
    first = compose(job)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")}
    assert compose({**job, "name": "renamed"}) == first
    error = refused({**job, "words": 500}, RunError)
    assert error.cause.endswith("another job:\n    words: 1000 -> 500")
    Path(job["parts"]["facts"]["input"]["path"]).write_text("another fact\n")
    assert "content.facts" in refused(job, RunError).cause
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")} == files


def test_a_folder_of_something_else_is_refused_and_an_empty_one_is_taken(job, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("keep me")
    assert "composition.json" in refused(job, RunError).cause
    (tmp_path / "corpus" / "mine.txt").unlink()
    assert compose(job).documents == 100
    assert "kindling augment" in refused({**job, "output": {"path": job["parts"]["stories"]["run"]}}, RunError).cause


@pytest.mark.parametrize("place", ["file.half", "file.renamed"])
def test_a_killed_compose_leaves_no_corpus_and_the_next_one_cleans_up(job, tmp_path, kindling, monkeypatch, place):
    path = write_job(tmp_path / "job.yaml", job)
    monkeypatch.setenv("KINDLING_FAILPOINT", f"{place}:1")
    assert kindling("compose", path).returncode < 0
    assert not (tmp_path / "corpus").exists() and len(list(tmp_path.glob(".corpus.*.tmp"))) == 1
    monkeypatch.delenv("KINDLING_FAILPOINT")
    assert kindling("compose", path).returncode == 0
    assert len(documents_in(tmp_path / "corpus")) == 100 and list(tmp_path.glob(".corpus.*.tmp")) == []


def test_the_folder_of_a_compose_that_still_runs_is_left_alone(tmp_path):
    fs = fsspec.filesystem("file")
    with filesystem.atomic_folder(fs, str(tmp_path / "corpus")) as first:
        Path(first, "a").touch()
        with filesystem.atomic_folder(fs, str(tmp_path / "corpus")) as second:
            Path(second, "b").touch()
        assert os.listdir(first) == ["a"]
        (tmp_path / "corpus" / "b").unlink()
    assert os.listdir(tmp_path / "corpus") == ["a"]


def test_a_full_disk_is_told_and_leaves_nothing(job, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filesystem, "write_all", full)
    assert "No space left" in refused(job, StoppedError).cause


def test_a_corpus_elsewhere_has_its_record_last(job):
    fs = fsspec.filesystem("memory")
    written = []
    put = type(fs).pipe_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fs), "pipe_file", lambda fs, path, *more: (written.append(path), put(fs, path, *more))[1])
        made = compose({**job, "output": {"path": "memory://compose-test/corpus"}})
    assert written[0].endswith("data/train-00000.parquet") and written[-1].endswith("composition.json")
    assert compose({**job, "output": {"path": "memory://compose-test/corpus"}}) == made


def test_several_files_load_as_one_dataset(job, tmp_path, monkeypatch):
    import datasets  # takes two seconds

    monkeypatch.setattr("pipelines.corpora.composition._MAX_FILE_DOCUMENTS", 30)
    made = compose(job)
    assert len(made.files) == 4
    loaded = datasets.load_dataset(str(tmp_path / "corpus"), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded["text"]) == polars.read_parquet(f"{tmp_path}/corpus/data/*.parquet")["text"].to_list()
    assert set(loaded.column_names) == set(CORPUS_SCHEMA.names)


def test_secrets_of_a_file_system_are_not_written_down(job, tmp_path):
    job["parts"]["facts"]["input"]["storage_options"] = {"auto_mkdir": False}
    compose(job)
    assert "auto_mkdir" not in (tmp_path / "corpus" / "composition.json").read_text()


# The job


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"words": 0}, "words", "greater than 0"),
        ({"parts": {}}, "parts", "at least 1"),
        ({"parts": {"a": {}}}, "parts.a", "either run or input"),
        ({"parts": {"a": {"run": "x", "input": {"path": "y"}}}}, "parts.a", "either run or input"),
        ({"parts": {"a": {"run": "x", "words": 5, "weight": 2}}}, "parts.a", "either words or weight"),
        ({"parts": {"a": {"run": "x", "weight": 0}}}, "parts.a.weight", "greater than 0"),
        ({"parts": {"a": {"run": "x", "words": 0}}}, "parts.a.words", "greater than 0"),
        ({"parts": {"a": {"input": {"path": "x"}, "variant": "v"}}}, "parts.a", "a variant is a run's"),
        ({"parts": {"a": {"input": {"path": "x", "keep": ["b"]}}}}, "parts.a", "keep has no use"),
        ({"parts": {"a": {"run": "x", "wieght": 2}}}, "parts.a.wieght", "did you mean `parts.a.weight`?"),
        ({"parts": {"a": {"input": {"paht": "x"}}}}, "parts.a.input.paht", "did you mean `parts.a.input.path`?"),
        ({"parts": {"a b": {"run": "x"}}}, "parts.a b", "pattern"),
        ({"recipe": "messages"}, "recipe", "unknown key"),
    ],
)
def test_a_faulty_job_is_one_clear_error(job, changes, key, words):
    error = refused({**job, **changes})
    assert error.key == key and words in str(error)


def test_the_command_line_overrides_a_part(job, tmp_path, kindling):
    path = write_job(tmp_path / "job.yaml", job)
    done = kindling("compose", path, "--set", "parts.stories.words=50", "--set", "words=80", "--json")
    assert json.loads(done.stdout)["parts"]["stories"]["words"] == 50
    done = kindling("compose", path, "--set", "parts.stories.run=nowhere")
    assert done.returncode == 2 and "parts.stories.run = nowhere: the folder has no run.json" in done.stderr
    assert "Traceback" not in done.stderr

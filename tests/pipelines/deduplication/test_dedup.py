"""`kindling dedup`: what it removes, and how export, compose and train leave that out."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import compose, dedup, export, verify
from pipelines.corpora.documents import RunDocuments
from pipelines.deduplication.openings import max_rows_of_opening
from pipelines.training.rows import Completions
from schemas.compose import Part
from schemas.dedup import DEDUP_PATH
from schemas.errors import JobError, RunError
from schemas.train import SftStage
from services.storage.store import ShardStore
from tests.support.files import write_jsonl
from tests.support.runs import write_run

LONG = "One morning the small fox walked along the cold river, looked at the far hills and thought of her brother."
TEXTS = [
    LONG,
    "A boat lay in the harbour and nobody knew whose it was, for its name had been painted over in green.",
    LONG.replace("far", "blue").upper(),  # a near-duplicate of the first
    "She said that every teenager had smiled at the parrot, which was not true of the one with the red cap.",
    "Rain fell on the roofs of the town, and a cat slept under the only dry bench of the market place.",
    "Two sisters built a kite out of old letters, and it flew better than any that they had bought before.",
]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", TEXTS)


@pytest.fixture
def blimp(tmp_path):
    pairs = [
        {"sentence_good": "Every teenager had smiled at the parrot.", "sentence_bad": "Smiled at the.", "UID": "x"},
        {"sentence_good": "No cat sleeps on a dry bench.", "sentence_bad": "No cat sleep on a dry bench.", "UID": "x"},
    ]
    (tmp_path / "blimp").mkdir()
    write_jsonl(tmp_path / "blimp" / "one.jsonl", pairs)
    return {"blimp": str(tmp_path / "blimp")}


def texts_of(exported):
    return [json.loads(line)["text"] for line in Path(exported.to).read_text().splitlines()]


def test_the_first_of_near_duplicates_stays_and_a_row_with_a_text_of_a_test_set_goes(run, blimp):
    result = dedup(run, blimp)
    assert (result.rows, result.removed, result.left) == (6, {"near_duplicate": 1, "contains_blimp": 1}, 4)
    assert (result.searched, result.too_short) == ({"blimp": 3}, {"blimp": 3})
    rows = {row["row_index"]: (row["rule"], row["detail"]) for row in pq.read_table(result.to).to_pylist()}
    assert rows == {
        2: ("near_duplicate", "row 0 of in.jsonl, sample 0"),
        3: ("contains_blimp", "every teenager had smiled at the parrot"),
    }
    assert verify(run).strays == []


def test_an_export_leaves_removed_rows_out_and_says_so(run, blimp, tmp_path, kindling):
    dedup(run, blimp)
    exported = export(run, str(tmp_path / "left.jsonl"), columns=["text"])
    assert (exported.rows, exported.removed) == (4, {"near_duplicate": 1, "contains_blimp": 1})
    assert texts_of(exported) == [TEXTS[i] for i in (0, 1, 4, 5)]
    assert export(run, str(tmp_path / "all.jsonl"), dedup=False).rows == 6
    done = kindling("export", run, "--to", str(tmp_path / "x.csv"), "--columns", "text")
    assert done.returncode == 0
    assert "left out, as `kindling dedup` found: 1 near_duplicate, 1 contains_blimp" in done.stdout


def test_a_corpus_and_a_training_leave_removed_rows_out(run, blimp, tmp_path):
    before = RunDocuments("x", Part(run=run)).content
    dedup(run, blimp)
    part = RunDocuments("x", Part(run=run))
    assert [document.text for document in part] == [TEXTS[i] for i in (0, 1, 4, 5)]
    assert "without 2 rows that `kindling dedup` removed" in part.content[run]
    assert RunDocuments("x", Part(run=run, dedup=False)).content == before
    job = {"name": "c", "words": 1000, "parts": {"x": {"run": run, "words": "all"}}, "output": str(tmp_path / "c")}
    record = compose(job)
    assert record.documents == 4 and "dedup" not in record.job["parts"]["x"]
    stage = SftStage(kind="sft", parts={"x": {"run": run}}, prompt=["context"])
    assert len(list(Completions("stages.0.parts", stage))) == 4


def test_a_run_that_has_changed_since_is_refused_by_each_reader(run, tmp_path):
    dedup(run)
    store = ShardStore(run)
    footer = store.read_manifest(1)
    rows = store.read_table("data/part-00001.parquet")
    store.remove("data/part-00001.parquet")
    store.commit(footer.model_copy(update={"finished_at": "2026-01-01T00:00:09+00:00"}), rows)
    for read in (
        lambda: export(run, str(tmp_path / "x.jsonl")),
        lambda: RunDocuments("x", Part(run=run)),
    ):
        with pytest.raises(RunError, match="it has changed since `kindling dedup` read it"):
            read()
    assert export(run, str(tmp_path / "x.jsonl"), dedup=False).rows == 6
    dedup(run)
    assert export(run, str(tmp_path / "y.jsonl")).rows == 5


def test_a_damaged_file_is_refused(run, tmp_path):
    dedup(run)
    (Path(run) / DEDUP_PATH).write_bytes(b"PAR1")
    with pytest.raises(RunError, match="is damaged"):
        export(run, str(tmp_path / "x.jsonl"))


def test_variants_are_compared_within_themselves(tmp_path):
    run = write_run(tmp_path / "sweep", [LONG, TEXTS[1], LONG], variants=["temperature=0.3", "temperature=0.9"])
    assert dedup(run).removed == {"near_duplicate": 2}
    variants = pq.read_table(f"{run}/{DEDUP_PATH}")["variant"].to_pylist()
    assert variants == ["temperature=0.3", "temperature=0.9"]


@pytest.fixture
def stories(tmp_path):
    """60 of 100 stories begin alike."""
    begun = ["once upon a time", *(f"story number {i} of" for i in range(40))]
    names = [f"fox{i} boat{i} hill{i} rain{i} cat{i} kite{i} green{i}" for i in range(100)]
    return write_run(tmp_path / "stories", [f"{begun[max(i - 59, 0)]} {names[i]}" for i in range(100)], 50)


def test_an_opening_is_thinned_out_to_its_largest_share(stories):
    assert dedup(stories, dry_run=True).removed == {"near_duplicate": 0} and not (Path(stories) / DEDUP_PATH).exists()
    result = dedup(stories, max_opening=0.2)
    assert result.openings["once upon a time"] == 60 and result.distinct_openings == 41
    assert result.removed == {"common_opening": 50, "near_duplicate": 0} and 10 / result.left <= 0.2
    removed = pq.read_table(result.to).to_pylist()
    assert {row["detail"] for row in removed} == {"once upon a time"}
    kept = {*range(60)} - {row["row_index"] for row in removed}
    assert max(kept) > 30  # from all over the input, not the first ones alone
    with pytest.raises(JobError, match=r"the 41 different openings of variant default have 2\.4% each"):
        dedup(stories, max_opening=0.01)


@pytest.mark.parametrize(
    ("counts", "share", "most"), [([60, 40], 0.5, 40), ([5], 1.0, 5), ([9, 1, 1], 0.5, 2), ([3, 3], 0.4, 0)]
)
def test_the_share_is_that_of_the_rows_that_are_left(counts, share, most):
    assert max_rows_of_opening(counts, share) == most


def test_the_command_shows_counts_and_openings(run, blimp, kindling):
    done = kindling("dedup", run, "--reference", f"blimp={blimp['blimp']}", "--opening-words", "2")
    assert done.returncode == 0
    assert done.stdout.splitlines()[:4] == [
        "6 accepted rows",
        "  near_duplicate                       1   16.7%",
        "  contains_blimp                       1   16.7%",
        "  left                                 4   66.7%",
    ]
    assert "4 different openings of 2 words; the commonest:" in done.stdout
    assert "blimp: 3 texts searched for; 3 with fewer than 5 words were not" in done.stdout


@pytest.mark.parametrize(
    ("reference", "words"),
    [("blimp", "not of the form NAME=PATH"), ("b=none.jsonl", "no such file"), ("b l=x", "not of the form NAME=PATH")],
)
def test_a_reference_that_is_none_is_one_error(run, kindling, reference, words):
    done = kindling("dedup", run, "--reference", reference)
    assert done.returncode == 2 and "--reference" in done.stderr and words in done.stderr


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no run\.json"):
        dedup(str(tmp_path))

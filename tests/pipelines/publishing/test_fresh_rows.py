"""`load_dataset` of what Kindling writes gives the rows that are there, whatever it has cached."""

import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from pipelines import compose, export, verify
from pipelines.inputs.hugging_face import HuggingFaceDataset
from pipelines.publishing.run_card import RunCard
from schemas.job import Input
from schemas.rows import to_batch
from services.storage.shard_index import read_index
from services.storage.store import ShardStore
from tests.support.files import write_jsonl
from tests.support.processes import cli_env
from tests.support.runs import make_run, manifest, record

_IN_A_NEW_PROCESS = """
import sys, datasets
print(*datasets.load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])["text"], sep="|")
"""


@pytest.fixture
def texts_of(tmp_path, monkeypatch):
    """Loads the texts of a folder: in this process, or in a new one; both with one cache."""
    import datasets

    cache = str(tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)

    def load(folder, new_process=False):
        if not new_process:
            return list(datasets.load_dataset(str(folder), split="train", cache_dir=cache)["text"])
        command = [sys.executable, "-c", _IN_A_NEW_PROCESS, str(folder), cache]
        done = subprocess.run(command, env=cli_env(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split("|")

    return load


def run_with_card(folder, texts, committed=None):
    """A run of shards of two rows, and its card."""
    store = ShardStore(make_run(folder, [{"text": text} for text in texts], per_shard=2, committed=committed))
    run = store.read_run()
    run.job = {
        "model": {"id": "fake", "revision": "r"},
        "recipe": "babylm_story",
        "prompt": None,
        "sampling": {},
        "seed": 0,
    }
    store.write_run(run)
    index = read_index(store, run)
    card = RunCard(store, run, index, index.totals().outcomes)
    card.renew()
    return store, index, card


def commit(store, index, shard, texts, finished_at="2026-01-02T03:04:07+00:00"):
    rows = [{**record(2 * shard + i), "text": text} for i, text in enumerate(texts)]
    facts = {"start": 2 * shard, "end": 2 * shard + 2, "finished_at": finished_at}
    table = pa.Table.from_batches([to_batch(rows)])
    index.add(store.commit(manifest(shard, accepted=2).model_copy(update=facts), table))


def test_a_run_that_goes_on(texts_of, tmp_path):
    store, index, card = run_with_card(tmp_path / "run", "abcdef", committed=[0])
    assert texts_of(store.url) == ["a", "b"]
    for shard, texts in enumerate(["cd", "ef"], 1):
        commit(store, index, shard, texts)
        card.renew_if_due()
        assert texts_of(store.url) == list("abcdef"[: 2 * shard + 2])
    assert read_index(store, store.read_run()).digest() == index.digest()


@pytest.mark.slow
def test_a_new_process_sees_what_was_added(texts_of, tmp_path):
    store, index, card = run_with_card(tmp_path / "run", "abcd", committed=[0])
    assert texts_of(store.url) == ["a", "b"]
    commit(store, index, 1, "cd")
    card.renew_if_due()
    assert texts_of(store.url, new_process=True) == list("abcd")


def test_another_run_in_a_folder_of_the_same_name(texts_of, tmp_path):
    store, *_ = run_with_card(tmp_path / "run", "abcd")
    assert texts_of(store.url) == list("abcd")
    shutil.rmtree(store.url)
    store, index, card = run_with_card(tmp_path / "run", "ABCD", committed=[0])
    commit(store, index, 1, "CD")  # of the same size, and of another time
    card.renew()
    assert texts_of(store.url) == list("ABCD")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(store.url, tmp_path / "elsewhere" / "run")
    assert texts_of(tmp_path / "elsewhere" / "run") == list("ABCD")


def test_a_run_that_is_repaired(texts_of, tmp_path):
    store, *_ = run_with_card(tmp_path / "run", "abcdef")
    assert texts_of(store.url) == list("abcdef")
    path = tmp_path / "run" / "data" / "part-00001.parquet"
    path.write_bytes((tmp_path / "run" / "data" / "part-00000.parquet").read_bytes())
    verify(store.url, repair=True)
    assert texts_of(store.url) == list("abef")
    index = read_index(store, run := store.read_run())
    commit(store, index, 1, "CD")
    RunCard(store, run, index, index.totals().outcomes).renew()
    assert texts_of(store.url) == list("abCDef")


def test_files_that_are_no_shards_are_no_rows(texts_of, tmp_path):
    store, *_ = run_with_card(tmp_path / "run", "abcd")
    shutil.copy(tmp_path / "run" / "data" / "part-00000.parquet", tmp_path / "run" / "data" / "copy.parquet")
    assert texts_of(store.url) == list("abcd")


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_exports_of_two_runs_in_folders_of_the_same_name(texts_of, tmp_path, file_format):
    for name, texts in (("a", "abcd"), ("b", "ABCD")):
        run = run_with_card(tmp_path / name / "run", texts)[0].url
        exported = export(run, str(tmp_path / name / "dataset"), file_format)
        assert texts_of(exported.to) == list(texts)


def test_corpora_in_folders_of_the_same_name(texts_of, tmp_path):
    for name, texts in (("a", "abcd"), ("b", "ABCD")):
        path = tmp_path / name / "rows.jsonl"
        path.parent.mkdir()
        write_jsonl(path, [{"text": text} for text in texts])
        parts = {"all": {"input": {"path": str(path)}}}
        compose({"name": "c", "words": 9, "parts": parts, "output": {"path": str(tmp_path / name / "corpus")}})
        assert sorted(texts_of(tmp_path / name / "corpus")) == sorted(texts)


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("name", ["rows.jsonl", "train.csv"])
def test_a_local_folder_of_somebody_else_as_input(texts_of, tmp_path, card, name):
    folder = tmp_path / "theirs"
    (folder / "data").mkdir(parents=True)
    if card:
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/*\n---\n")

    def rows(texts):
        lines = [f'{{"text": "{text}"}}' for text in texts] if name.endswith("jsonl") else ["text", *texts]
        (folder / "data" / name).write_text("\n".join(lines) + "\n")
        os.utime(folder / "data" / name, (1, 1))  # a copy that keeps its time
        source = HuggingFaceDataset(Input(dataset=str(folder)))
        return list(source._dataset["text"]), source.content()

    first, content = rows(["one", "two"])
    second, other_content = rows(["owe", "two", "too"])
    assert (first, second) == (["one", "two"], ["owe", "two", "too"]) and content != other_content
    assert rows(["one", "two"])[0] == ["one", "two"]

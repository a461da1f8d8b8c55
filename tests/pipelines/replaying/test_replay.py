"""kindling replay on the fake engine: what it draws, what it says of rows that come out differently, and errors."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipelines import augment, replay
from pipelines.cli.main import app
from pipelines.replaying.drawn_rows import draw_rows
from schemas.errors import EngineError, JobError, RunError
from schemas.run import Retry
from services.storage.store import ShardStore, encode_shard, shard_path
from tests.support.files import write_jsonl
from tests.support.runs import batch, manifest, run_of, table

ROWS = [{"context": f"Sentence number {number} is here.", "emotion": "joy"} for number in range(24)]


@pytest.fixture(scope="module")
def run(tmp_path_factory, ray_cluster):
    """A run of 24 input rows, two samples and two variants, whose rows may take two tries: its folder, a short path."""
    folder = tmp_path_factory.mktemp("replayed")
    write_jsonl(folder / "rows.jsonl", ROWS)
    job = {
        "name": "replayed",
        "input": {"path": "rows.jsonl"},
        "recipe": "babylm_story",
        "samples": 2,
        "model": {"id": "fake"},
        "sampling": {"max_tokens": 32},
        "sweep": {"prompt": ["p1", "p3"]},
        "quality": {"max_tries": 2, "min_words": 16},
        "engine": {"max_num_seqs": 8},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": "run", "rows_per_shard": 8},
        "metrics": {"port": None},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        augment(job)
        yield folder / "run"


def files_of(run):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(run.rglob("*")) if path.is_file()}


def changed(run, **keys):
    """Writes run.json with another job; returns what was there."""
    path = run / "run.json"
    before = path.read_text()
    record = json.loads(before)
    record["job"] |= keys
    path.write_text(json.dumps(record))
    return before


def test_all_rows_of_a_run_come_out_the_same_and_nothing_is_written(run):
    before = files_of(run)
    result = replay("run", rows=40)
    assert files_of(run) == before
    assert (result.identical, result.rate.rate, result.rate.n) == (40, 1.0, 40) and result.rate.low > 0.9
    assert (result.first_difference, result.changes, result.left_out) == (None, [], 0)
    drawn = [(row.row_index, row.sample, row.variant) for row in result.rows]
    assert len(set(drawn)) == 40 and drawn == sorted(drawn)
    assert {row.sample for row in result.rows} == {0, 1} and len({row.variant for row in result.rows}) == 2
    draws = [
        [row.output_id for row in draw_rows(ShardStore("run"), ShardStore("run").read_run(), 9, s)[0]]
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_rows_that_differ_are_counted_with_the_place_and_what_changed_is_named(run):
    store = ShardStore("run")
    path = run / shard_path("data", 0)
    before, record, facts = path.read_bytes(), (run / "run.json").read_text(), store.read_manifest(0)
    rows = store.read_table(shard_path("data", 0))
    texts = rows["text"].to_pylist()
    texts[0] = " ".join([*texts[0].split()[:4], "Xylophone", *texts[0].split()[5:]])
    other = rows.set_column(0, rows.schema.field(0), pa.array(texts))
    path.write_bytes(encode_shard(other, facts.model_copy(update={"versions": facts.versions | {"python": "3.0"}})))
    (run / "run.json").write_text(record.replace('"device": "fake"', '"device": "another"'))
    try:
        result = CliRunner().invoke(app, ["replay", "run", "-n", "1000", "--json"])
        shown = CliRunner().invoke(app, ["replay", "run", "-n", "1000"])
    finally:
        path.write_bytes(before)
        (run / "run.json").write_text(record)
    found = json.loads(result.stdout)
    count = found["rate"]["n"]
    assert found["identical"] == count - 1 and 60 < count <= 96
    (row,) = [row for row in found["rows"] if row["first_difference"] is not None]
    assert row["text"] == texts[0] and row["replayed"].split()[:4] == texts[0].split()[:4]
    assert 3 <= found["first_difference"] <= 5
    assert [change.split(":")[0] for change in found["changes"]] == ["python", "engine.device"]
    assert f"run: {count - 1} of {count} rows have the same text again: " in shown.stdout
    assert "different: 1, the first time after about 4 tokens (median)" in shown.stdout
    assert "changed since the run: python: 3.0 -> 3." in shown.stdout


def test_a_run_that_cannot_be_replayed_is_one_error(run, tmp_path):
    record = (run / "run.json").read_text()
    faults = [
        ({"model": {"id": "no/such"}}, EngineError, "no/such"),
        ({"recipe": "poem"}, RunError, "cannot be made again: recipe = poem"),
        ({"input": {"path": "gone.jsonl"}}, RunError, "cannot be made again: input.path = gone.jsonl"),
        ({"seeds": "none"}, RunError, "`seeds: none`: its sampling had no seeds, so each row has another text"),
        ({"seeds": "run"}, RunError, "`seeds: run`: its engines had one seed each"),
    ]
    for keys, error, words in faults:
        changed(run, **keys)
        with pytest.raises(error) as raised:
            replay("run")
        assert words in str(raised.value) and raised.value.remedy
        (run / "run.json").write_text(record)
    rows = (run.parent / "rows.jsonl").read_text()
    write_jsonl(run.parent / "rows.jsonl", [{**row, "emotion": "fear"} for row in ROWS])
    try:
        with pytest.raises(RunError, match=r"made from is not what it was:\n    inputs.rows.jsonl: 24 rows, "):
            replay("run")
    finally:
        (run.parent / "rows.jsonl").write_text(rows)
    for rows, folder, words in ((0, "run", "-n = 0"), (1, str(tmp_path), "no run.json")):
        with pytest.raises((JobError, RunError), match=words):
            replay(folder, rows=rows)
    Path(tmp_path, "train.json").write_text("{}")
    with pytest.raises(RunError, match="a job of `kindling train`"):
        replay(str(tmp_path))


def test_at_temperature_0_no_seeds_are_needed(run):
    before = changed(run, seeds="none", sampling={"temperature": 0, "max_tokens": 32})
    try:
        # The fake engine does not know of temperatures: it draws other words, and the identity tells what was changed.
        result = replay("run", rows=8)
    finally:
        (run / "run.json").write_text(before)
    assert result.rate.n == 8 and "seeds: (absent) -> none" in result.changes


def test_rows_of_before_a_retry_that_changed_the_job_are_left_out(tmp_path):
    store = ShardStore(str(tmp_path / "run"))
    run = run_of(1)
    store.commit(manifest(end=4, accepted=2), table(batch(0, 2)))
    assert [row.output_id for row in draw_rows(store, run, 9, 0)[0]] == [0, 2]
    facts = manifest(end=4, accepted=2).model_copy(update={"retry": 1, "retried": "rejected"})
    store.commit(facts, table(batch(1, 3)))
    retry = Retry(number=1, state="rejected", rows=4, fingerprint="f" * 64)
    run.retries = [retry]
    assert len(draw_rows(store, run, 9, 0)[0]) == 4
    run.retries = [retry.model_copy(update={"changes": ["sampling.max_tokens: 1 -> 2"]})]
    drawn, left_out = draw_rows(store, run, 9, 0)
    assert ([row.output_id for row in drawn], left_out) == ([1, 3], 2)
    run.retries = [retry, retry.model_copy(update={"number": 2, "changes": ["seed: 0 -> 1"]})]
    with pytest.raises(RunError, match="no committed row that was accepted, since a retry changed its job"):
        draw_rows(store, run, 9, 0)

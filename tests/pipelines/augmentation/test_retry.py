"""`kindling augment --retry`: rejected or failed rows are generated again, and each row has one final state."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import augment, compare, export, stats, status, verify
from schemas.errors import EngineError, JobError, RunError, StoppedError
from schemas.rows import ACCEPTED, ERROR, REJECTED, row_seed
from schemas.run import Retry
from services.storage.shard_index import INDEX_PATH, read_index
from services.storage.store import ShardStore
from tests.support.files import write_jsonl

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def failed_job(fake_job, tmp_path):
    """A job of which 6 of 20 rows fail, in the shards 0 and 2, since their prompts are too long."""
    lines = [{"context": f"Row {n}." + " word" * (400 if n in (0, 1, 5, 17, 18, 19) else 0)} for n in range(20)]
    write_jsonl(fake_job["input"]["path"], lines)
    (tmp_path / "p.jinja").write_text("Write of {{ context }}")
    return {
        **fake_job, "recipe": "template", "prompt": str(tmp_path / "p.jinja"),
        "engine": {"max_num_seqs": 8, "max_model_len": 100},
    }  # fmt: skip


def files_of(run):
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(Path(run).glob("*/part-*.parquet"))}


def rows_of(run, folder="data"):
    return [row for path in sorted(Path(run, folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def mended(job, limit=1000):
    return {**job, "engine": {**job["engine"], "max_model_len": limit}}


def test_failed_rows_are_generated_again_after_the_job_is_mended(failed_job, tmp_path):
    first = augment(failed_job)
    assert first.rows == {ACCEPTED: 14, REJECTED: 0, ERROR: 6}
    assert first.errors == {"the prompt has N tokens and the model takes at most N": 6}
    run, before = first.run, files_of(first.run)
    with pytest.raises(RunError, match="another job"):
        augment(mended(failed_job))
    again = augment(mended(failed_job), retry="errors")
    assert again.rows == {ACCEPTED: 20, REJECTED: 0, ERROR: 0} and again.errors == {} and again.generated == 6
    after = files_of(run)
    assert before.items() <= after.items()  # nothing that is committed is written again
    assert sorted(after.keys() - before.keys()) == ["data/part-00000.r1.parquet", "data/part-00002.r1.parquet"]
    rows = rows_of(run)
    assert sorted(row["row_index"] for row in rows) == list(range(20))  # all rows, none twice
    source = failed_job["input"]["path"]
    for row in rows:
        retried = row["row_index"] in (0, 1, 5, 17, 18, 19)
        assert row["seed"] == row_seed(0, source, row["row_index"], 0, attempt=int(retried))
    verdict = verify(run)
    assert verdict.faults == [] and +verdict.rows == {ACCEPTED: 20}
    found = status(run)
    assert found.complete and found.rows[ACCEPTED] == 20 and found.errors == {} and found.shards == found.shards_total
    assert export(run, str(tmp_path / "out")).rows == 20
    assert stats(run).corpora[0].whole.stories == 20 and stats(run).corpora[0].complete
    assert [o.state for row in compare(run, rows=[0, 2, 19]).rows for o in row.outputs] == [ACCEPTED] * 3
    (retry,) = ShardStore(run).read_run().retries
    assert retry.changes == ["engine.max_model_len: 100 -> 1000"] and retry.state == ERROR
    # The mended job is the run's job now, and there is nothing left to do, with --retry or without.
    assert augment(mended(failed_job)).generated == 0
    assert augment(mended(failed_job), retry="errors").generated == 0 and files_of(run) == after
    Path(run, INDEX_PATH).unlink()
    assert read_index(ShardStore(run), ShardStore(run).read_run()).totals().outcomes.counts[ACCEPTED] == 20


@pytest.mark.slow
def test_rows_that_fail_again_are_retried_again_and_only_their_newest_state_counts(failed_job, tmp_path):
    run = augment(failed_job).run
    lengths = {0: 402, 1: 402, 5: 402, 17: 402, 18: 402, 19: 402}
    again = augment(mended(failed_job, 101), retry="errors")  # still too short
    assert again.rows[ERROR] == len(lengths) and verify(run).faults == []
    assert status(run).rows == {ACCEPTED: 14, REJECTED: 0, ERROR: 6}
    assert len(list(ShardStore(run).read_rows(ERROR))) == 2  # of the newest retry alone
    final = augment(mended(failed_job), retry="errors")
    assert final.rows == {ACCEPTED: 20, REJECTED: 0, ERROR: 0} and verify(run).faults == []
    assert Path(run, "data/part-00002.r2.parquet").exists()
    # Damage of an early part takes the retries of its rows with it, and the next start makes all of them again.
    Path(run, "errors/part-00002.r1.parquet").write_bytes(b"damaged")
    verdict = verify(run, repair=True)
    assert {fault.damages for fault in verdict.faults} == {1_000_000_002}
    assert sorted(verdict.moved) == [
        "data/part-00002.r1.parquet", "data/part-00002.r2.parquet", "errors/part-00002.r1.parquet",
    ]  # fmt: skip
    assert status(run).left_to_retry == 3 and not status(run).complete
    assert augment(mended(failed_job)).rows == {ACCEPTED: 20, REJECTED: 0, ERROR: 0} and verify(run).faults == []


def test_a_retry_that_was_stopped_is_resumed(failed_job, monkeypatch):
    run = augment(failed_job).run
    commit = ShardStore.commit

    def fail(store, manifest, rows):
        if manifest.retry and manifest.shard == 2:
            raise OSError(28, "No space left on device")
        return commit(store, manifest, rows)

    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "commit", fail)
        with pytest.raises(StoppedError):
            augment(mended(failed_job), retry="errors")
    assert Path(run, "log/part-00002.r1.arrows").exists()
    stopped = status(run)
    assert (stopped.complete, stopped.left_to_retry, stopped.rows[ACCEPTED]) == (False, 3, 17)
    assert verify(run).faults == []
    assert augment(mended(failed_job), retry="errors").generated == 0  # the log of the retry has the rows
    assert verify(run).rows[ACCEPTED] == 20 and len(ShardStore(run).read_run().retries) == 1
    assert not list(Path(run, "log").glob("*"))


@pytest.mark.slow
def test_rejected_rows_are_retried_and_failed_ones_are_left(failed_job):
    cutting = {**failed_job, "sampling": {"max_tokens": 8}, "quality": {"reject_truncated": True}}
    first = augment(cutting)
    assert first.rejects == {"cut_off": first.rows[REJECTED]} and first.rows[ERROR] == 6 and first.rows[REJECTED] >= 12
    accepting = {**cutting, "sampling": {"max_tokens": 64}}
    again = augment(accepting, retry="rejected")
    assert again.rows == {ACCEPTED: 14, REJECTED: 0, ERROR: 6} and verify(again.run).faults == []
    inputs = [json.loads(row["inputs"])["context"] for row in rows_of(again.run)]
    assert len(inputs) == len(set(inputs)) == 14
    assert augment(mended(accepting), retry="errors").rows[ACCEPTED] == 20 and verify(again.run).faults == []


@pytest.mark.slow
def test_a_retry_is_refused_where_rows_or_layout_differ(failed_job, tmp_path):
    with pytest.raises(RunError, match="only a complete run"):
        augment(failed_job, retry="errors")
    run = augment(failed_job).run
    for change in ({"samples": 2}, {"output": {**failed_job["output"], "rows_per_shard": 4}}):
        with pytest.raises(RunError, match=next(iter(change))):
            augment({**mended(failed_job), **change}, retry="errors")
    before = files_of(run)
    assert augment(failed_job, retry="rejected").generated == 0 and files_of(run) == before
    assert ShardStore(run).read_run().retries == []


def test_a_retry_that_cannot_begin_changes_nothing_and_none_takes_over_the_rows_of_another(failed_job, tmp_path):
    run = augment(failed_job).run
    store = ShardStore(run)
    record, card = store.read_run(), Path(run, "README.md").read_text()
    (tmp_path / "wrong.jinja").write_text("Write of {{ context.title }}")
    with pytest.raises(JobError, match="no row"):
        augment({**failed_job, "prompt": str(tmp_path / "wrong.jinja")}, retry="errors")
    assert (store.read_run(), Path(run, "README.md").read_text()) == (record, card)
    # A retry of the failed rows that was stopped before its first row, as a killed driver leaves it.
    retry = Retry(number=1, state=ERROR, rows=record.rows, fingerprint=record.fingerprint)
    store.write_run(record.model_copy(update={"retries": [retry]}))
    with pytest.raises(RunError, match="another job"):  # no row is rejected; the failed ones are not this job's
        augment(mended(failed_job), retry="rejected")
    assert dict(verify(run).rows) == {ACCEPTED: 14, ERROR: 6}
    # A retry whose engine does not start, and one whose budget is used up before.
    store.write_run(record)
    for change in ({"engine": {"max_model_length": 1000}}, {"budget": {"tokens": 40}}):
        with pytest.raises((EngineError, StoppedError)):
            augment({**mended(failed_job), **change}, retry="errors")
        left = store.read_run()
        assert left.model_copy(update={"last_metrics": record.last_metrics}) == record
        assert Path(run, "README.md").read_text() == card
    assert augment(failed_job).generated == 0


@pytest.mark.slow
def test_a_run_whose_first_rows_all_fail_in_the_engine_stops_and_keeps_them(failed_job):
    write_jsonl(failed_job["input"]["path"], [{"context": f"Row {n}." + " word" * 400} for n in range(200)])
    with pytest.raises(
        EngineError, match="each of the first 64 rows failed, for the same reason: the prompt has N tokens"
    ):
        augment(failed_job)
    run = failed_job["output"]["path"]
    assert 64 <= status(run).rows[ERROR] < 200
    assert augment(failed_job).rows == {ACCEPTED: 0, REJECTED: 0, ERROR: 200} and verify(run).faults == []

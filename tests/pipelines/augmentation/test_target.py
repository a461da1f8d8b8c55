"""`target_accepted`: the job ends at the border of a shard, in input order, whatever comes first."""

import pytest

from pipelines import augment, status, verify
from pipelines.augmentation.target import max_in_flight, rows_left
from pipelines.jobfile import as_job
from schemas.rows import ACCEPTED
from services.storage.commit_order import CommitOrder
from services.storage.open_shard import OpenShard
from services.storage.shard_index import read_index
from services.storage.store import ShardStore
from tests.support.runs import make_run, manifest


def accepted_rows(run):
    columns = ["row_index", "text"]
    return [tuple(row.values()) for batch in ShardStore(run).read_rows(columns=columns) for row in batch.to_pylist()]


def all_rows(run, state):
    return [row for batch in ShardStore(run).read_rows(state) for row in batch.to_pylist()]


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_ends_at_the_shard_that_reaches_its_target_and_goes_on_with_a_higher_one(fake_job, tmp_path, caplog):
    job = fake_job | {"quality": {"max_words": 30}, "target_accepted": 6}
    job["output"]["rows_per_shard"] = 4
    job["engine"] = {"max_num_seqs": 32}  # more rows at once than the target needs
    everything = augment(
        job | {"target_accepted": None, "output": {"path": str(tmp_path / "whole"), "rows_per_shard": 4}}
    )
    with caplog.at_level("INFO", "kindling"):
        summary = augment(job)
    expected = accepted_rows(everything.run)
    got = accepted_rows(summary.run)
    assert 6 <= len(got) < 20 and got == expected[: len(got)] and summary.rows[ACCEPTED] == len(got)
    before_last = [row for row in got if row[0] < 4 * (summary.shards - 1)]
    assert len(before_last) < 6  # the last shard is the one that reaches the target
    assert any("target_accepted is reached" in message for message in caplog.messages)
    assert not any("given up" in message for message in caplog.messages)

    shown, verdict = status(summary.run), verify(summary.run)
    assert shown.complete and shown.rows_total == 4 * summary.shards == sum(shown.rows.values())
    assert shown.rows_not_read == 40 - shown.rows_total and not verdict.faults and "were not read" in verdict.not_read

    assert augment(job).generated == 0  # nothing is left to do
    more = augment(job | {"target_accepted": len(got) + 3})
    assert accepted_rows(more.run)[: len(got)] == got and more.rows[ACCEPTED] >= len(got) + 3
    whole = augment({key: value for key, value in job.items() if key != "target_accepted"})
    assert accepted_rows(whole.run) == expected and status(whole.run).complete and not verify(whole.run).faults


@pytest.mark.usefixtures("ray_cluster")
def test_a_target_that_is_reached_ends_no_retry(fake_job):
    job = fake_job | {"quality": {"max_words": 20}, "target_accepted": 3}
    summary = augment(job)
    assert summary.rows["rejected"] > 0
    again = augment(job, retry="rejected")
    assert again.generated == summary.rows["rejected"] and again.rows[ACCEPTED] >= summary.rows[ACCEPTED]
    assert status(again.run).complete and not verify(again.run).faults
    texts = [row["text"] for state in ("rejected", "accepted") for row in all_rows(again.run, state)]
    assert len(texts) == sum(again.rows.values()) and augment(job).generated == 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_target_that_the_input_cannot_reach_ends_with_the_input(fake_job):
    summary = augment(fake_job | {"target_accepted": 1000})
    assert summary.rows[ACCEPTED] == 40 and status(summary.run).complete


def test_shards_are_committed_in_input_order_up_to_the_target(tmp_path):
    url = make_run(tmp_path / "run", [{} for _ in range(8)])
    store = ShardStore(url)
    run = store.read_run()
    run = run.model_copy(update={"rows_per_shard": 2, "segments": [8]})
    for shard in store.committed_shards():
        store.remove(f"data/part-{shard:05d}.parquet")
    order = CommitOrder(run, read_index(store, run), 3)
    ready = order.ready
    assert list(ready([OpenShard(2, 4, 6, 2)])) == []  # it waits for the two before it
    committed = []
    for shard in ready([OpenShard(0, 0, 2, 2), OpenShard(1, 2, 4, 2)]):
        committed.append(shard.number)
        order.add(manifest(shard.number, accepted=2))
    assert committed == [0, 1] and order.is_reached and order.read_rows == 4
    assert list(ready([OpenShard(3, 6, 8, 2)])) == []


def test_rows_in_flight_are_those_that_the_target_needs_by_the_acceptance_so_far(fake_job):
    job = as_job(fake_job | {"target_accepted": 100})

    class Run:
        outputs, rows_per_shard, outputs_per_row = 10_000, 8, 1

    assert rows_left(10_000, None, {"accepted": 1}) == 9_999
    assert rows_left(10_000, 100, {"rejected": 5}) == 9_995  # nothing is known of the acceptance yet
    assert rows_left(10_000, 100, {"accepted": 50, "rejected": 50}) == 100
    assert max_in_flight(job, Run, {"accepted": 50, "rejected": 50}) == 111
    assert max_in_flight(job, Run, {"accepted": 100}) == 8

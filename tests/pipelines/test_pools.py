"""Warm pools on the fake engine: real Ray, real processes, the command line and the Python call."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pipelines import augment, verify
from pipelines.pools import list_pools, start_pool, stop_pool
from schemas.errors import EngineError
from services.storage.store import ShardStore
from tests.support.files import write_job
from tests.support.processes import cli_env, finished_rows, wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def pool(fake_job):
    """Starts pools, and ends what is left of them."""

    def start(**changes):
        start_pool({**fake_job, **changes})

    yield start
    for each in list_pools():
        stop_pool(each.name)


def pids_of(run):
    return {tuple(replica["pids"]) for replica in ShardStore(run).read_run().replicas}


def another(job, tmp_path, name, **changes):
    return {**job, "name": name, "output": {"path": str(tmp_path / name), "rows_per_shard": 8}, **changes}


def test_jobs_with_the_same_engine_use_the_pool_and_leave_it(fake_job, tmp_path, pool):
    fake_job["engine"] = {"max_num_seqs": 8, "step_seconds": 0.01}  # no job ends before it met both replicas
    pool(cluster={"replicas": 2, "cpus_per_replica": 1})
    first, second = (augment(another(fake_job, tmp_path, name)) for name in ("first", "second"))
    assert first.rows["accepted"] == second.rows["accepted"] == 40
    assert pids_of(first.run) == pids_of(second.run) and len(pids_of(first.run)) == 2
    (state,) = list_pools()
    assert (state.name, state.model, state.replicas, state.starting, state.jobs) == ("fake", "fake", 2, 0, 0)


def test_a_job_with_another_engine_starts_its_own(fake_job, tmp_path, pool):
    pool()
    same = augment(another(fake_job, tmp_path, "same"))
    other = augment(another(fake_job, tmp_path, "other", engine={"max_num_seqs": 9}))
    assert not pids_of(same.run) & pids_of(other.run)
    assert list_pools()[0].replicas == 1


def test_a_pool_that_no_node_can_hold_is_given_up(pool):
    with pytest.raises(EngineError, match="1 GPU requested, and the cluster has 1 node with 8 CPUs"):
        pool(cluster={"gpus_per_replica": 1, "wait_minutes": 0.01})
    assert list_pools() == []


def test_a_pool_cannot_have_the_seed_of_one_job(pool):
    with pytest.raises(EngineError, match=r"seeds = run: .*\n.*set `seeds` to row or none"):
        pool(seeds="run")


@pytest.mark.slow
def test_two_jobs_share_a_pool_evenly(fake_job, tmp_path, pool, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 10, "step_seconds": 0.02}
    pool()
    jobs = [another(fake_job, tmp_path, name, samples=3) for name in ("one", "two")]
    processes = [start(job, tmp_path, ray_cluster) for job in jobs]
    runs = [job["output"]["path"] for job in jobs]
    wait_for(lambda: all(finished_rows(run) for run in runs))
    before = [finished_rows(run) for run in runs]
    # Each may have half of 1.1 x 10 requests in flight; the first gave up what it had when the second came.
    wait_for(lambda: list_pools()[0].jobs == 2 and list_pools()[0].in_flight <= 12)
    wait_for(lambda: sum(map(finished_rows, runs)) > sum(before) + 60)
    done = [finished_rows(run) - earlier for run, earlier in zip(runs, before, strict=True)]
    assert 0.4 < done[0] / done[1] < 2.5  # 60 rows on a machine that may be busy; without shares one has them all
    assert [process.wait(60) for process in processes] == [0, 0]
    assert [verify(run).rows["accepted"] for run in runs] == [120, 120]


def test_a_pool_survives_the_kill_9_of_its_job(fake_job, tmp_path, pool, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.02}
    pool()
    job = another(fake_job, tmp_path, "killed")
    run = job["output"]["path"]
    process = start(job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(run) > 4)
    process.kill()
    process.wait()
    before = pids_of(run)
    assert augment(job).rows["accepted"] == 40
    assert pids_of(run) == before and verify(run).faults == []
    # The dead job's session ends, and so does its share of the pool.
    wait_for(lambda: list_pools()[0].jobs == 0)


@pytest.mark.slow
def test_a_job_that_was_taken_for_dead_goes_on(fake_job, tmp_path, pool, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.02}
    pool()
    job = another(fake_job, tmp_path, "asleep")
    process = start(job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(job["output"]["path"]) > 4)
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: list_pools()[0].jobs == 0, 40)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(60) == 0
    assert verify(job["output"]["path"]).rows["accepted"] == 40
    batches = ShardStore(job["output"]["path"]).read_rows(columns=["attempts"])
    assert {attempts for batch in batches for attempts in batch["attempts"].to_pylist()} == {1}


@pytest.mark.slow
def test_a_pool_that_is_stopped_under_its_job_costs_no_row(fake_job, tmp_path, pool, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.02}
    pool()
    job = another(fake_job, tmp_path, "bereft")
    process = start(job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(job["output"]["path"]) > 4)
    assert stop_pool("fake") == 1
    assert process.wait(120) == 0 and verify(job["output"]["path"]).rows["accepted"] == 40


def test_an_engine_of_a_pool_that_dies_comes_up_again(fake_job, tmp_path, pool):
    fake_job["engine"] = {"max_num_seqs": 4, "die_after_requests": 25}
    pool()
    summary = augment(another(fake_job, tmp_path, "run"))
    assert sum(summary.rows.values()) == 40 and summary.rows["accepted"] >= 30
    pids = [replica["pids"] for replica in ShardStore(summary.run).read_run().replicas]
    assert len(pids) == 2 and pids[0] != pids[1]
    assert list_pools()[0].replicas == 1


def test_a_pool_without_a_job_ends_itself(fake_job, pool):
    start_pool(fake_job, name="brief", idle_minutes=0.03)
    assert list_pools()[0].name == "brief"
    wait_for(lambda: not list_pools(), 30)


def test_the_command_line_starts_lists_and_stops(fake_job, tmp_path, kindling, ray_cluster):
    path = write_job(tmp_path / "job.yaml", {**fake_job, "cluster": {"address": ray_cluster, "cpus_per_replica": 1}})
    started = kindling("pool", "start", path, "--name", "warm", "--set", "cluster.replicas=2")
    assert started.returncode == 0, started.stderr
    assert "waiting for 1 CPU (usually 2 to 10 s)" in started.stderr and "2 of 2 engines up" in started.stderr
    listed = kindling("pool", "list", "--address", ray_cluster)
    assert listed.stdout.startswith("warm: fake, 2 replicas, idle for 0.")
    as_json = json.loads(kindling("pool", "list", "--address", ray_cluster, "--json").stdout)
    assert as_json["pools"][0]["replicas"] == 2
    again = kindling("pool", "start", path, "--name", "warm")
    assert again.returncode == 2 and "kindling pool stop warm" in again.stderr
    assert kindling("pool", "stop", "warm", "--address", ray_cluster).stdout == "warm: 2 replicas stopped\n"
    assert kindling("pool", "list", "--address", ray_cluster).stdout == "no pool runs\n"
    assert "there is no pool of this name" in kindling("pool", "stop", "warm", "--address", ray_cluster).stderr


def test_a_pool_needs_a_cluster_that_outlives_the_command(fake_job, tmp_path, kindling):
    refused = kindling("pool", "start", write_job(tmp_path / "job.yaml", fake_job))
    assert refused.returncode == 2 and "ray start --head" in refused.stderr and "Traceback" not in refused.stderr


def test_an_engine_that_cannot_start_leaves_no_pool(fake_job):
    with pytest.raises(EngineError, match="max_num_seq"):
        start_pool({**fake_job, "engine": {"max_num_seq": 4}})
    with pytest.raises(EngineError, match="--idle-minutes"):
        start_pool(fake_job, idle_minutes=0)
    wait_for(lambda: not list_pools(), 30)


def start(job, tmp_path, address):
    job = {**job, "cluster": {**job["cluster"], "address": address}}
    command = [sys.executable, "-m", "pipelines", "augment", write_job(tmp_path / f"{job['name']}.yaml", job)]
    return subprocess.Popen(command, env=cli_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_the_first_row_does_not_wait_for_pandas(fake_job):
    # pyarrow imports it for the first array that it makes of Python's values, which takes a second.
    code = f"""
import json, sys
from pipelines import augment
from services.replicas.replica_pool import ReplicaPool

def send(pool, member, rows):
    print("HANDED", "pandas" in sys.modules, "torch" in sys.modules)
    raise KeyboardInterrupt

ReplicaPool.send = send
augment({fake_job!r})
"""
    done = subprocess.run([sys.executable, "-c", code], env=cli_env(), capture_output=True, text=True, timeout=180)
    assert "HANDED False False" in done.stdout, done.stderr

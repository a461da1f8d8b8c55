"""Every process of a job dies by SIGKILL in mid-run, and no row is lost or doubled.

The driver at any moment is in test_augment.py and test_chaos.py, a full disk, which ends the writer's thread, in
test_augment.py.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines import augment, verify
from services.storage import failpoints
from services.storage.store import ShardStore
from tests.support.files import ROOT, write_job
from tests.support.processes import cli_env, finished_rows, gone, wait_for


def start(job, tmp_path, address="", **env):
    command = [sys.executable, "-m", "pipelines", "augment", write_job(tmp_path / "job.yaml", job), "--json"]
    where = {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        command, cwd=tmp_path, env=cli_env(**where, **env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows_of(run):
    files = [file for folder in ("data", "errors") for file in Path(run, folder).glob("*.parquet")]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def assert_whole(run, rows=40):
    assert Counter(row["row_index"] for row in rows_of(run)) == Counter(range(rows))
    assert verify(run).faults == [] and {row["state"] for row in rows_of(run)} == {"accepted"}


def pids_of(run):
    return [pid for replica in ShardStore(run).read_run().replicas for pid in replica["pids"]]


def test_a_replica_that_is_killed_is_replaced(fake_job, tmp_path, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.02}
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(run) > 4)
    (first,) = pids_of(run)
    os.kill(first, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "replica 0 died" in errors and "Traceback" not in errors
    assert_whole(run)
    assert len(pids_of(run)) == 2 and gone(pids_of(run), 20)
    assert {row["attempts"] for row in rows_of(run)} == {1, 2}


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_behind(fake_job, tmp_path):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.05}
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path)  # with a Ray of its own
    wait_for(lambda: finished_rows(run) > 4)
    below = psutil.Process(process.pid).children(recursive=True)
    # Ray's two agents look for their head for a minute before they end as well.
    below = [child.pid for child in below if "Agent" not in " ".join(child.cmdline())]
    assert set(pids_of(run)) <= set(below) and len(below) > 3
    process.kill()
    process.wait()
    assert gone(below, 30)


@pytest.mark.slow
def test_a_driver_dies_between_any_two_steps_of_a_commit(fake_job, tmp_path, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.001}
    fake_job["output"]["rows_per_shard"] = 3
    rows = [{"context": f"Sentence {i}." if i % 5 else None, "emotion": "joy"} for i in range(200)]
    Path(fake_job["input"]["path"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = fake_job["output"]["path"]
    for name in failpoints.NAMES:
        before = finished_rows(run)
        process = start(fake_job, tmp_path, ray_cluster, KINDLING_FAILPOINT=f"{name}:2")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, f"{name}: {errors}"
        assert finished_rows(run) >= before, name
        for file in Path(run).glob("*/*.parquet"):
            assert pq.read_table(file).num_rows >= 0
    process = start(fake_job, tmp_path, ray_cluster)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert Counter(row["row_index"] for row in rows_of(run)) == Counter(range(200))
    assert verify(run).faults == [] and verify(run).rows["error"] == 40
    assert not list(Path(run).rglob("*.tmp"))


NODES = """
import json, os, signal, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from pipelines import augment, status
from schemas.errors import KindlingError

job = json.loads(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

def finished_rows():
    try:
        return sum(status(job["output"]["path"]).rows.values())
    except KindlingError:
        return 0

def kill_a_node():
    while finished_rows() < 8:
        time.sleep(0.05)
    os.kill(nodes[1].all_processes["raylet"][0].process.pid, signal.SIGKILL)

threading.Thread(target=kill_a_node, daemon=True).start()
augment(job)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_that_dies_takes_no_row_along(fake_job, tmp_path):
    fake_job["cluster"] = {"replicas": 2, "cpus_per_replica": 1}
    fake_job["engine"] = {"max_num_seqs": 2, "step_seconds": 0.02}
    command = [sys.executable, "-c", NODES, json.dumps(fake_job)]
    # Without conftest, whose HOME would be another: Ray's token, where an earlier test has made one, is in this one's.
    done = subprocess.run(command, cwd=ROOT, env=cli_env(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_whole(fake_job["output"]["path"])


HEAD = """
import time
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
time.sleep(600)
"""


class Head:
    """A cluster of one node, whose every process can be killed."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", HEAD], cwd=ROOT, env=cli_env(), stdout=subprocess.PIPE, text=True
        )
        self.address = self._process.stdout.readline().strip()
        assert self.address, "Ray did not start"

    def kill_store(self):
        """Kills the server of the head that keeps the cluster's state (GCS); all other processes go on."""
        (store,) = [child for child in psutil.Process(self._process.pid).children() if child.name() == "gcs_server"]
        store.kill()

    def kill(self):
        for process in [*psutil.Process(self._process.pid).children(recursive=True), self._process]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["head", "store"])
def test_after_the_head_died_the_same_command_goes_on(fake_job, tmp_path, what):
    # Replicas answer each other without the head's store: the rows last until Ray would abort the driver.
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.02 if what == "head" else 0.2}
    run = fake_job["output"]["path"]
    first = Head()
    process = start(fake_job, tmp_path, first.address)
    wait_for(lambda: finished_rows(run) > 4)
    first.kill() if what == "head" else first.kill_store()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 75 and "the head of the Ray cluster does not answer" in errors, errors
    if what == "store":
        first.kill()
    kept = finished_rows(run)
    assert 4 < kept < 40
    second = Head()
    process = start(fake_job, tmp_path, second.address)
    output, errors = process.communicate(timeout=120)
    second.kill()
    assert process.returncode == 0, errors
    assert json.loads(output)["generated"] == 40 - kept
    assert_whole(run)


def test_sigterm_lets_rows_in_flight_end(fake_job, tmp_path, ray_cluster):
    # All 40 rows are in flight at once, and take longer than it takes to stop.
    fake_job["engine"] = {"max_num_seqs": 40, "start_seconds": 4.0}
    fake_job["output"]["rows_per_shard"] = 64
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path, ray_cluster)
    wait_for(lambda: ShardStore(run).read_run() and pids_of(run))
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "finishing 40 rows in flight, up to 25 s more" in errors, errors
    assert_whole(run)


def test_a_grace_that_is_over_ends_with_75_and_keeps_what_is_finished(fake_job, tmp_path, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.05}
    fake_job["cluster"]["grace_seconds"] = 6.0
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(run) > 4)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 6.0
    assert process.returncode == 75 and "resume with: kindling augment" in errors, errors
    assert 4 < finished_rows(run) < 40


def test_a_second_driver_is_refused_while_the_first_works(fake_job, tmp_path, ray_cluster, kindling):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.1}
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(run) > 4)
    for verb in (["augment", tmp_path / "job.yaml"], ["verify", run, "--repair"]):
        refused = kindling(*verb)
        assert refused.returncode == 2, refused.stderr
        assert f"another driver works on this run: process {process.pid}" in refused.stderr
    before = finished_rows(run)  # reading needs no lease
    wait_for(lambda: finished_rows(run) > before)
    process.kill()
    process.communicate()


def test_repair_sets_damage_aside_and_the_next_start_makes_it_again(fake_job, ray_cluster, kindling):
    rows = [{"context": f"S {i}", "emotion": "joy" if i % 8 else "glee"} for i in range(40)]
    Path(fake_job["input"]["path"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Path(augment(fake_job).run)
    whole = {path.name: path.read_bytes() for path in (run / "data").iterdir()}
    flipped = run / "data" / "part-00002.parquet"
    flipped.write_bytes(whole[flipped.name][:200] + b"\0\0\0" + whole[flipped.name][203:])
    (run / "errors" / "part-00001.parquet").unlink()
    (run / "data" / "part-00003.parquet").write_bytes(whole["part-00000.parquet"])
    (run / "rejected").mkdir()
    (run / "rejected" / "part-00004.parquet").write_bytes(b"no Parquet")
    done = kindling("verify", run, "--repair", "--json")
    verdict = json.loads(done.stdout)
    assert done.returncode == 1
    assert sorted(verdict["moved"]) == [
        "data/part-00001.parquet", "data/part-00002.parquet", "data/part-00003.parquet", "errors/part-00002.parquet",
        "errors/part-00003.parquet", "rejected/part-00004.parquet",
    ]  # fmt: skip
    assert all((run / verdict["set_aside"] / path).is_file() for path in verdict["moved"])
    assert augment(fake_job).generated == 24
    assert verify(str(run)).faults == [] and sum(verify(str(run)).rows.values()) == 40
    kept = {name: (run / "data" / name).read_bytes() for name in ("part-00000.parquet", "part-00004.parquet")}
    assert all(whole[name] == content for name, content in kept.items())


def test_a_shard_that_cannot_be_read_for_now_is_not_taken_for_damaged(fake_job, ray_cluster, monkeypatch):
    run = augment(fake_job).run
    read = ShardStore.read_table

    def read_of_a_server_that_is_away(store, relative, columns=None):
        if relative == "data/part-00001.parquet":
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        return read(store, relative, columns)

    monkeypatch.setattr(ShardStore, "read_table", read_of_a_server_that_is_away)
    verdict = verify(run, repair=True)
    assert [fault.path for fault in verdict.faults] == ["data/part-00001.parquet"] and verdict.moved == []
    assert "cannot be read: Connection timed out" in verdict.faults[0].cause
    monkeypatch.undo()
    assert verify(run).faults == []


@pytest.fixture
def real_job(tmp_path, contexts):
    return {
        "name": "core",
        "input": {"path": str(contexts)},
        "recipe": "babylm_story",
        "sampling": {"max_tokens": 48},
        "engine": {"max_model_len": 1024, "max_num_seqs": 8},
        "output": {"path": str(tmp_path / "run"), "rows_per_shard": 8},
        "metrics": {"port": 0},
    }


@pytest.mark.slow
def test_an_engine_core_that_is_killed_is_replaced(real_job, tmp_path):
    run = real_job["output"]["path"]
    process = start(real_job, tmp_path)
    wait_for(lambda: finished_rows(run) > 4, 240)
    actor, *engine = pids_of(run)
    core = next(pid for pid in engine if "EngineCore" in " ".join(psutil.Process(pid).cmdline()))
    os.kill(core, signal.SIGKILL)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    assert "replica 0 died" in errors and "Traceback" not in errors
    assert_whole(run)
    assert gone([actor, *pids_of(run)], 30)


@pytest.mark.slow
def test_an_engine_core_that_is_killed_while_it_starts_is_replaced(real_job, tmp_path):
    process = start(real_job, tmp_path)

    def core():
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "EngineCore" in " ".join(each.cmdline()):
                    return each.pid
        return None

    os.kill(wait_for(core, 240), signal.SIGKILL)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    assert "its log gives no cause" in errors and "Traceback" not in errors
    assert_whole(real_job["output"]["path"])

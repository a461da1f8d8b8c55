"""The wait for GPUs and CPU cores of the cluster: what it says, and when it ends the job."""

import logging

import pytest
import ray

from pipelines import augment, preview
from schemas.errors import EXIT_STOPPED, EXIT_USAGE, EngineError, JobError, StoppedError
from schemas.job import Cluster, Model
from services import cluster as ray_connection
from services.engines.engine import EngineSpec
from services.replicas import placement, resource_wait
from services.replicas.placement import replica_wait
from services.replicas.resource_wait import ResourceWait

CPU_NODES = [{"CPU": 8.0}, {"CPU": 8.0}, {"CPU": 2.0}]
GPU_NODES = [*CPU_NODES, {"CPU": 16.0, "GPU": 4.0}]


@pytest.fixture
def nodes(monkeypatch):
    """Sets the nodes of the cluster, and the minutes that pass between two looks at the clock."""
    state = {"nodes": CPU_NODES, "minutes": 0.0, "step": 1.0}

    def monotonic():
        state["minutes"] += state["step"]
        return state["minutes"] * 60

    monkeypatch.setattr(resource_wait, "node_resources", lambda: state["nodes"])
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.0})
    monkeypatch.setattr(resource_wait.time, "monotonic", monotonic)
    return state


def checks_until_the_end(wait, waits=lambda number: True):
    for number in range(1000):
        try:
            wait.check(waits(number))
        except Exception as error:
            return number, error
    raise AssertionError("it waits without an end")


def test_a_job_that_no_node_can_hold_ends_and_says_what_there_is(nodes, caplog):
    caplog.set_level(logging.WARNING, logger="kindling")
    wait = ResourceWait("cluster.gpus_per_replica", 1, 0, 30, Model(id="./no-model"))
    assert not wait.begin("the job")
    facts = "1 GPU requested, and the cluster has 2 nodes with 8 CPUs and no GPU, 1 node with 2 CPUs and no GPU"
    assert facts in caplog.text and "up to 30 minutes (cluster.wait_minutes)" in caplog.text
    assert "lacks model.id = ./no-model: no such folder" in caplog.text
    number, error = checks_until_the_end(wait)
    assert number == 31 and isinstance(error, EngineError) and error.exit_code == EXIT_USAGE
    assert error.key == "cluster.gpus_per_replica" and facts in error.cause and "./no-model" in error.cause


def test_a_job_whose_resources_others_hold_is_stopped_and_can_be_resumed(nodes):
    nodes["nodes"] = GPU_NODES
    wait = ResourceWait("cluster.gpus_per_replica", 1, 0, 30)
    assert wait.begin("the job")
    _, error = checks_until_the_end(wait)
    assert isinstance(error, StoppedError) and error.exit_code == EXIT_STOPPED and "others" not in error.key
    assert "other jobs or warm pools hold them" in error.cause


def test_the_wait_begins_anew_each_time_that_there_was_a_place(nodes):
    wait = ResourceWait("cluster.gpus_per_replica", 1, 0, 30)
    number, error = checks_until_the_end(wait, waits=lambda number: number not in (20, 40))
    assert number == 72  # 31 minutes after the first look that follows the last place
    # The node is gone; what it finished is kept.
    assert isinstance(error, StoppedError) and "any more" in error.cause


def test_null_waits_without_an_end(nodes):
    with pytest.raises(AssertionError, match="without an end"):
        checks_until_the_end(ResourceWait("cluster.gpus_per_replica", 1, 0, None))


@pytest.mark.parametrize(
    ("gpus", "cpus", "words", "remedy"),
    [(1, 0, "1 GPU requested", "leave cluster.gpus_per_replica out"), (0, 9, "9 CPUs requested", "lower cluster.cpus")],
)
def test_on_a_ray_of_its_own_no_node_can_join_and_the_job_is_refused(nodes, monkeypatch, gpus, cpus, words, remedy):
    monkeypatch.setattr(ray_connection, "_is_own", True)
    section = Cluster(gpus_per_replica=gpus)
    with pytest.raises(JobError) as raised:
        replica_wait(EngineSpec(Model(id="fake"), gpus=gpus, cpus=cpus), section).begin("the job")
    assert words in raised.value.cause and remedy in raised.value.remedy


def test_the_key_is_the_one_that_asks_for_the_gpus(nodes):
    spec = EngineSpec(Model(id="fake"), gpus=8)
    assert replica_wait(spec, Cluster())._key == "engine.tensor_parallel_size"
    assert replica_wait(spec, Cluster(gpus_per_replica=8))._key == "cluster.gpus_per_replica"


@pytest.mark.parametrize("verb", [augment, preview])
def test_a_missing_model_is_reported_before_ray_is_started(fake_job, monkeypatch, verb):
    monkeypatch.setattr(placement, "starts_cluster", lambda address: True)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray is started"))
    fake_job.update(model={"id": "./no-model"}, engine={})
    with pytest.raises(EngineError, match="no such folder"):
        verb(fake_job)


def test_no_job_waits_for_ever_for_a_gpu(fake_job, ray_cluster):
    fake_job["cluster"] = {"gpus_per_replica": 1, "wait_minutes": 0.01}
    with pytest.raises(EngineError, match=r"1 GPU requested, and the cluster has 1 node with 8 CPUs and no GPU"):
        augment(fake_job)
    with pytest.raises(EngineError, match="no node is large enough"):
        preview(fake_job, rows=2)

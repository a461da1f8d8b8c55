"""Several trainings at once: real Ray, real processes, tiny models."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from pipelines import train, train_all
from pipelines.training.stage import StageReport
from schemas.errors import EXIT_STOPPED, EXIT_USAGE, JobError
from tests.support.files import write_job
from tests.support.processes import cli_env, wait_for
from tests.support.tiny_models import job_of, sft

pytestmark = pytest.mark.usefixtures("one_thread")


def student(tmp_path, name, model, *stages, **more):
    """A job in the folder of its name, on one core."""
    job = job_of(tmp_path, model, *stages, **{"resources": {"cpus": 1}, **more})
    return {**job, "name": name, "output": {"path": f"students/{name}"}}


def write_student(tmp_path, name, *arguments, **more):
    return write_job(tmp_path / f"{name}.yaml", student(tmp_path, name, *arguments, **more))


def log_of(tmp_path, name):
    path = tmp_path / "students" / name / "train.log"
    return path.read_text() if path.exists() else ""


def start(tmp_path, address, *arguments):
    command = [sys.executable, "-m", "pipelines", "train", *arguments, "--json"]
    env = cli_env(RAY_ADDRESS=address, OMP_NUM_THREADS="1")
    return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_trains_in_a_process_of_its_own_and_a_fault_is_its_own_too(
    tmp_path, monkeypatch, ray_cluster, tiny, answers
):  # fmt: skip
    monkeypatch.chdir(tmp_path)  # the tasks find what is named by a relative path there
    good = student(tmp_path, "good", tiny, sft("rows.jsonl", optimizer={"max_steps": 2}))
    large = student(tmp_path, "large", tiny, sft("rows.jsonl"), resources={"cpus": 99, "wait_minutes": 0.01})
    trained, faulty, waited = train_all([good, student(tmp_path, "bad", tiny, sft("nowhere.jsonl")), large])
    assert (trained.state, faulty.state, waited.state) == ("done", "failed", "failed")
    assert waited.error.key == "resources.cpus" and "1 node with 8 CPUs" in waited.error.cause
    assert faulty.error.key == "stages.0.parts.rows.input.path"
    assert "0-sft: step 2 of 2" in log_of(tmp_path, "good")
    # The same job by itself finds its model there.
    assert train(good).as_json() == trained.report


def test_all_jobs_are_looked_at_before_any_starts(tmp_path, kindling):
    good, bad, other = (student(tmp_path, name, "x", sft("x")) for name in ("good", "bad", "other"))
    paths = [write_job(tmp_path / "good.yaml", good), write_job(tmp_path / "bad.yaml", {**bad, "stages": []})]
    done = kindling("train", *paths)
    assert done.returncode == EXIT_USAGE and f"{paths[1]}: stages" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(JobError) as error:
        train_all([good, {**other, "output": {"path": "students/../students/good"}}])
    assert "the folder of good and of other" in error.value.cause
    assert not (tmp_path / "students").exists()


@pytest.mark.slow
def test_a_signal_ends_all_with_a_checkpoint_and_the_same_command_goes_on(
    tmp_path, ray_cluster, tiny, answers
):  # fmt: skip
    paths = [write_student(tmp_path, name, tiny, sft(answers, optimizer={"epochs": 400})) for name in "ab"]
    waits = write_student(tmp_path, "waits", tiny, sft(answers), resources={"cpus": 8})
    process = start(tmp_path, ray_cluster, *paths, waits)
    wait_for(lambda: all("step 10 of" in log_of(tmp_path, name) for name in "ab"), 240)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_STOPPED and "resume with: kindling train" in errors, errors
    assert [each["state"] for each in json.loads(output)["trained"]] == ["stopped"] * 3
    steps = {}
    for name in "ab":
        whole = (tmp_path / "students" / name).glob("work/0-sft/checkpoint-*/kindling.whole")
        steps[name] = max(int(path.parent.name.partition("-")[2]) for path in whole)
    assert not (tmp_path / "students" / "waits").exists()

    process = start(tmp_path, ray_cluster, *paths)
    wait_for(lambda: all(log_of(tmp_path, name).count("to train on") == 2 for name in "ab"), 240)
    wait_for(lambda: all(log_of(tmp_path, name).rpartition("to train on")[2].count(": step") for name in "ab"), 120)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == EXIT_STOPPED
    for name in "ab":
        again = log_of(tmp_path, name).rpartition("to train on")[2]
        assert int(again.partition("step ")[2].split()[0]) > steps[name]


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_and_goes_on_to_the_same_weights(
    tmp_path, ray_cluster, tiny, answers
):  # fmt: skip
    optimizer = {"max_steps": 200, "epochs": 400, "patience": 400}
    job = student(tmp_path, "killed", tiny, sft(answers, optimizer=optimizer), precision="fp32")
    process = start(tmp_path, ray_cluster, write_job(tmp_path / "job.yaml", job), "--address", ray_cluster)
    wait_for(lambda: "step 20 of" in log_of(tmp_path, "killed"), 240)
    (worker,) = [each for each in psutil.process_iter() if each.name() == "ray::killed"]
    given = worker.environ()
    worker.kill()
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert (given["OMP_NUM_THREADS"], given["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    assert "killed: its process died" in errors and "Traceback" not in errors
    assert log_of(tmp_path, "killed").count("step 1 of") == 1
    (trained,) = json.loads(output)["trained"]
    whole = train({**job, "output": {"path": str(tmp_path / "whole")}}).stages[0]
    assert replace(StageReport(**trained["report"]["stages"][0]), seconds=0) == replace(whole, seconds=0)
    weights = [tmp_path / each / "model.safetensors" for each in ("students/killed", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()

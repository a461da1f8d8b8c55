"""A training as it is watched: the Prometheus endpoint, TensorBoard's curves, the lines of a log."""

import json
import logging
import os
import signal
import socket
import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines import status, train
from schemas.errors import JobError, StoppedError
from services.observability.series import TrainMetrics
from tests.support.files import write_jsonl
from tests.support.processes import wait_for
from tests.support.tiny_models import curve, job_of, job_on, save_tiny, sft
from trainers import progress as progress_module
from trainers.examples import lengths_of, read_examples
from trainers.progress import StageProgress

SERIES = {"run": "t", "stage": "0-sft"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def job(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)  # which rows are held out goes by the path that the job gives
    rows = [{"instruction": f"Say {i}.", "input": "", "text": f"Glad to: {i}!"} for i in range(60)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return job_of(tmp_path, tiny, sft("rows.jsonl", optimizer={"epochs": 400, "eval_steps": 14}))


def watched(job, folder, steps):
    """Trains until the endpoint tells so many steps, and stops it; what the endpoint said last."""
    said = {}

    def value(name):
        return said.get((f"kindling_train_{name}", tuple(sorted(SERIES.items()))), 0)

    def scrape():
        address = json.loads((folder / "train.json").read_text())["metrics"]
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {name: value for name, value in sample.labels.items() if name != "start"}
                said[sample.name, tuple(sorted(labels.items()))] = sample.value
        return value("steps_total") >= steps and value("held_out_loss")

    def watch():
        try:
            wait_for(lambda: (folder / "train.json").is_file() and _quiet(scrape))
            said["status"] = status(str(folder))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    with pytest.raises(StoppedError):
        train(job)
    thread.join()
    return value, said["status"]


def step_of(checkpoint):
    return int(checkpoint.name.partition("-")[2])


def _quiet(scrape):
    try:
        return scrape()
    except OSError:  # not open yet
        return None


def test_the_endpoint_tells_how_far_it_is_and_a_resumed_training_counts_on(job, tmp_path):
    folder = tmp_path / "o"
    value, told = watched(job, folder, steps=14)
    assert 14 <= value("steps_total") < value("planned_steps") == 400 * 7
    assert 0 < value("loss") < 10 and 0 < value("held_out_loss") < 10 and 0 < value("learning_rate") <= 3e-3
    assert value("eta_seconds") > 0 and value("tokens_per_second") > 0
    # So does `kindling status`, and afterwards from the last checkpoint.
    assert (told.kind, told.source, told.stages, told.stage) == ("train", "endpoint", ["0-sft"], 0)
    assert told.step >= value("steps_total") and told.steps == 400 * 7 and 0 < told.loss < 10 and told.eta_seconds > 0
    stopped = status(str(folder))
    assert (stopped.source, stopped.complete, stopped.steps) == ("disk", False, 400 * 7) and stopped.state == "stopped"
    assert stopped.step == max(map(step_of, folder.glob("work/0-sft/checkpoint-*"))) and 0 < stopped.held_out_loss < 10
    record = json.loads((folder / "train.json").read_text())
    assert record["ended_at"] >= record["created_at"]
    assert record["last_metrics"]['kindling_train_steps_total{stage="0-sft"}'] >= value("steps_total")

    # At the end of an epoch, which has seven steps, each token that is no padding has been counted once.
    checkpoint = next(at for at in folder.glob("work/0-sft/checkpoint-*") if step_of(at) % 14 == 0)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    tokens = sum(lengths_of(read_examples(folder / "work/0-sft/train.arrow")))
    assert state["num_input_tokens_seen"] == step_of(checkpoint) // 7 * tokens

    last = max(folder.glob("work/0-sft/checkpoint-*"), key=step_of)
    seen = json.loads((last / "trainer_state.json").read_text())["num_input_tokens_seen"]
    again, _ = watched(job, folder, steps=step_of(last) + 1)
    assert again("steps_total") > step_of(last) >= value("steps_total")
    assert again("tokens_total") > seen >= value("tokens_total")
    steps = [step for step, _ in curve(folder, "train/loss")]
    assert steps == sorted(set(steps)) and steps[:2] == [1, 10]


def test_what_a_killed_start_told_behind_its_checkpoint_is_shown_once(tmp_path):
    for first, last, loss in ((0, 15, 3.0), (10, 20, 2.0)):
        progress = StageProgress("0-sft", TrainMetrics("t"), tmp_path / "tensorboard" / "0-sft")
        progress.begin(20, step=first)  # and no end: the first start is killed
        for _ in range(first, last):
            progress.on_step(tokens=7)
            progress.on_held_out(loss)
    assert curve(tmp_path, "eval/loss") == [*((n, 3.0) for n in range(1, 11)), *((n, 2.0) for n in range(11, 21))]


def test_the_time_left_counts_the_evaluations_to_come(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_module, "monotonic", lambda: clock[0])
    progress = StageProgress("0-sft", TrainMetrics("t"), tmp_path)
    progress.evaluation_seconds = 30.0  # as measured before the first step
    progress.begin(22, eval_steps=5)

    def step():
        clock[0] += 2.0
        progress.on_step(tokens=7)
        return progress._seconds_left()

    assert [step() for _ in range(5)][-1] == 17 * 2 + 5 * 30  # after the steps 5, 10, 15, 20 and 22
    clock[0] += 40.0
    progress.on_held_out(2.0)
    progress.resume()
    assert step() == 16 * 2 + 4 * 40
    again = StageProgress("0-sft", TrainMetrics("t"), tmp_path)
    again.begin(22, step=20, eval_steps=5)
    clock[0] += 2.0
    again.on_step(tokens=7)
    assert again._seconds_left() == 2  # and one evaluation, of which nothing is known yet


def test_a_taken_port_gives_a_free_one(job, tmp_path, caplog):
    job["stages"][0]["optimizer"]["max_steps"] = 1
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.INFO, "kindling"):
        job["metrics"]["port"] = taken.getsockname()[1]
        train(job)
    address = json.loads((tmp_path / "o" / "train.json").read_text())["metrics"]
    assert address.startswith("127.0.0.1:") and address != f"127.0.0.1:{job['metrics']['port']}"
    assert address in caplog.text
    # Where stderr is no terminal there are lines.
    assert "0-sft: step 1 of 1: loss" in caplog.text and "tok/s, at most 00:0" in caplog.text


def test_a_metrics_host_of_another_machine_is_refused(job):
    job["metrics"]["host"] = "203.0.113.7"  # an address reserved for documentation
    with pytest.raises(JobError) as refused:
        train(job)
    assert refused.value.key == "metrics.host"


def test_a_classifier_has_its_curves_too(tmp_path):
    train(job_on(tmp_path, epochs=2) | {"metrics": {"port": 0}})
    for tag, steps in (("eval/loss", [3, 6]), ("train/loss", [1])):
        assert [step for step, _ in curve(tmp_path / "moods", tag, "0-classifier")] == steps

"""The log of a command on standard error: lines for a person, JSON for a log collector, no lines of libraries."""

import json
import logging
import math
import subprocess
import sys
import warnings
from datetime import datetime

import pytest

from pipelines import augment
from services.observability import logs
from services.observability.terminal import Bar
from services.storage.store import ShardStore
from tests.support.files import ROOT
from tests.support.processes import cli_env


@pytest.fixture
def set_up(monkeypatch):
    """`logs.set_up`, undone after the test."""
    root, ours = logging.getLogger(), logging.getLogger("kindling")
    before = root.handlers[:], root.level, ours.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root.handlers[:] = []  # else set_up closes those of the test runner
    yield logs.set_up
    logging.captureWarnings(False)
    root.handlers[:], root.level, level = before
    ours.setLevel(level)


def test_a_log_collector_gets_one_object_a_line_with_the_figures_of_the_message(
    fake_job, ray_cluster, set_up, monkeypatch, capsys
):
    monkeypatch.setattr("pipelines.augmentation.progress.LINE_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert Bar("rows", 1).shown
    set_up(structured=True)
    assert not Bar("rows", 1).shown  # it would stand between the objects
    fake_job["engine"]["start_seconds"] = 0.3
    run = augment(fake_job).run
    lines = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert all(datetime.fromisoformat(each["time"]).tzinfo and each["logger"] == "kindling" for each in lines)
    shards = {each["shard"]: each for each in lines if each.get("event") == "shard"}
    store = ShardStore(run)
    assert shards.keys() == {0, 1, 2, 3, 4}
    for shard, said in shards.items():
        manifest = store.read_manifest(shard)
        assert (said["run"], said["level"], said["counts"]) == ("fake", "info", manifest.counts)
        assert (said["output_tokens"], said["finished_at"]) == (manifest.output_tokens, manifest.finished_at)
    progress = [each for each in lines if each.get("event") == "progress"]
    assert progress and all(each["rows_total"] == 40 for each in progress)
    assert progress[-1]["rows"]["accepted"] >= progress[0]["rows"]["accepted"]


def test_a_figure_without_a_value_is_null(set_up, capsys):
    set_up(structured=True)
    facts = {"loss": math.nan, "eta_seconds": math.inf, "step": 7}
    logging.getLogger("kindling").info("a step", extra={"facts": facts})

    def refuse(text):
        raise ValueError(text)

    said = json.loads(capsys.readouterr().err, parse_constant=refuse)
    assert (said["loss"], said["eta_seconds"], said["step"]) == (None, None, 7)


def test_an_error_is_an_object_too(tmp_path):
    command = [sys.executable, "-m", "pipelines", "augment", "nowhere.yaml", "--log-format", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=cli_env(), capture_output=True, text=True)
    (said,) = map(json.loads, done.stderr.splitlines())
    assert done.returncode == 2 and (said["level"], said["event"], said["key"]) == ("error", "error", "JOB")
    assert said["value"] == "nowhere.yaml" and said["cause"] and said["remedy"]


@pytest.mark.parametrize("verb", ["augment", "demo", "label", "train", "evaluate", "compose", "pool start"])
def test_each_verb_that_logs_takes_the_options(verb):
    from typer.testing import CliRunner

    from pipelines.cli.main import app

    shown = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"}).stdout
    assert "--log-format" in shown and "--log-dependencies" in shown


def test_libraries_are_quiet_unless_asked_for_and_a_warning_says_that_it_is_one(set_up, capsys):
    def speak():
        logging.getLogger("vllm.engine").info("an engine's word")
        logging.getLogger("vllm.engine").warning("an engine's warning")
        logging.getLogger("vllm.engine").error("an engine's error")
        warnings.warn("a module is old", DeprecationWarning, stacklevel=1)
        loud = logging.getLogger("loud")
        loud.setLevel(logging.INFO)
        loud.info("as Ray's")
        logging.getLogger("kindling").info("a shard")
        logging.getLogger("kindling").warning("a death")
        logs.log_worker_lines({"lines": ["from afar"], "pid": 7, "ip": "10.0.0.1", "actor_name": "Replica"})
        return [text[9:] for text in capsys.readouterr().err.splitlines()]  # behind the time

    set_up()
    assert speak() == ["error: vllm.engine: an engine's error", "a shard", "warning: a death"]
    set_up(dependencies=True)
    heard = speak()
    assert heard[:3] == [
        "vllm.engine: an engine's word", "warning: vllm.engine: an engine's warning",
        "error: vllm.engine: an engine's error",
    ]  # fmt: skip
    assert (
        "loud: as Ray's" in heard
        and any("a module is old" in text for text in heard)
        and heard[-1] == "worker: from afar"
    )
    set_up(structured=True, dependencies=True)
    logs.log_worker_lines({"lines": ["from afar"], "pid": 7, "ip": "10.0.0.1", "actor_name": "Replica"})
    said = json.loads(capsys.readouterr().err)
    assert (said["logger"], said["message"], said["pid"], said["level"]) == ("worker", "from afar", 7, "info")


def test_libraries_that_write_their_own_log_are_logged_as_objects_too():
    script = (
        "from services.observability import logs;"
        "logs.set_up(structured=True, dependencies=True); logs.set_environment();"
        "import transformers, huggingface_hub;"
        "transformers.utils.logging.get_logger('transformers.generation').info('of its own');"
        "huggingface_hub.utils.logging.get_logger('huggingface_hub.file').info('from the hub')"
    )
    # A verb that another test ran in this process has made the libraries quiet.
    env = {name: value for name, value in cli_env().items() if not name.endswith("_VERBOSITY")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    said = [json.loads(text) for text in done.stderr.splitlines()]
    assert [(each["logger"], each["message"]) for each in said if each["logger"].startswith(("transf", "hugging"))] == [
        ("transformers.generation", "of its own"), ("huggingface_hub.file", "from the hub"),
    ]  # fmt: skip


@pytest.mark.slow
def test_workers_are_logged_on_standard_error_and_standard_output_has_only_the_result():
    """A Ray of the command's own, whose worker says a word as vLLM does."""
    script = """
import sys, time, ray
from services.observability import logs
from services.cluster import connect_to_ray
logs.set_up(structured=True, dependencies=True)
with connect_to_ray(None):
    ray.get(ray.remote(lambda: print("a worker's word", flush=True)).remote())
    time.sleep(5)  # a worker's lines come within a second
print("the result")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=cli_env(), capture_output=True, text=True)
    assert done.stdout == "the result\n"
    said = [json.loads(text) for text in done.stderr.splitlines()]
    assert "a worker's word" in [each["message"] for each in said if each["logger"] == "worker"]

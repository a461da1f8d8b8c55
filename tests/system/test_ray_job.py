"""`ray job submit`, as a user types it: a head on loopback, a packaged working directory, a stop, an edit, a resume."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import verify
from tests.support.files import ROOT, write_job
from tests.support.processes import cli_env, finished_rows, wait_for
from tests.support.tiny_models import job_of, sft

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def head(tmp_path):
    """`ray start --head` with token authentication; (dashboard address, environment for clients)."""
    home = tmp_path / "home"
    home.mkdir()
    env = cli_env(HOME=str(home), RAY_AUTH_MODE="token")
    env.pop("PYTHONPATH")  # what runs must come from the package that Ray uploads
    env["PATH"] = f"{BIN}:{env['PATH']}"
    # All that Ray starts listens on free ports of loopback, beside whatever Ray runs on this machine already.
    ports = {
        name: free_port()
        for name in ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    }
    command = [
        BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
        "--num-cpus=2", f"--temp-dir=/tmp/kindling-ray-{os.getpid()}", *(f"--{k}={v}" for k, v in ports.items()),
    ]  # fmt: skip
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    with open(tmp_path / "head.log", "w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        wait_for(lambda: ray_job(env, "list", "--address", address).returncode == 0, 90)
        yield address, env
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(f"/tmp/kindling-ray-{os.getpid()}", ignore_errors=True)


def ray_job(env, *arguments, cwd=None):
    command = [BIN / "ray", "job", *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=180)


@pytest.fixture
def package(tmp_path):
    """The project, to be uploaded."""
    ignore = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", ".*_cache")
    return shutil.copytree(ROOT, tmp_path / "package", ignore=ignore)


def test_submit_stop_edit_resubmit_resumes(head, package, tmp_path):
    address, env = head
    run = str(tmp_path / "run")
    fake = [
        "model.id=fake",
        "engine={max_num_seqs: 2, step_seconds: 0.02}",
        "output.rows_per_shard=4",
        "metrics.port=0",
    ]
    job = ["python", "-m", "pipelines", "augment", "deploy/jobs/demo.yaml", "--json"]

    def submit(path, *options):
        sets = [f"--set={value}" for value in (*fake, f"output.path={path}")]
        where = ["--address", address, "--working-dir", ".", *options]
        return ray_job(env, "submit", *where, "--", *job, *sets, cwd=package)

    refused = submit("runs/relative")
    assert refused.returncode != 0 and "an absolute path that all nodes share" in refused.stdout + refused.stderr

    done = submit(run, "--no-wait", "--submission-id", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: finished_rows(run) >= 6, 120)
    assert ray_job(env, "stop", "--address", address, "first").returncode == 0
    kept = finished_rows(run)
    assert 6 <= kept < 56

    source = package / "pipelines" / "stopping.py"
    source.write_text(source.read_text() + "\n# an edit: Ray uploads another package, and unpacks it elsewhere\n")
    done = submit(run)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"run"')))
    assert summary["generated"] <= 56 - kept
    verdict = verify(run)
    assert verdict.faults == [] and sum(verdict.rows.values()) == 56


def test_several_trainings_in_one_job(head, package, tmp_path, tiny, answers):
    address, env = head
    shutil.copy(answers, package / "rows.jsonl")
    for name in ("one", "two"):
        job = job_of(tmp_path, tiny, sft("rows.jsonl", optimizer={"max_steps": 2}), resources={"cpus": 1})
        write_job(package / f"{name}.yaml", {**job, "name": name, "output": {"path": str(tmp_path / name)}})

    def submit(*options):
        where = ["--address", address, "--working-dir", "."]
        command = ["python", "-m", "pipelines", "train", "one.yaml", "two.yaml", "--json", *options]
        return ray_job(env, "submit", *where, "--", *command, cwd=package)

    refused = submit("--set=output.path=relative")
    assert refused.returncode != 0 and "an absolute path that all nodes share" in refused.stdout + refused.stderr
    done = submit()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"trained"')))
    assert [(each["name"], each["state"]) for each in result["trained"]] == [("one", "done"), ("two", "done")]
    assert all((tmp_path / name / "model.safetensors").exists() for name in ("one", "two"))


def test_a_study_in_one_job(head, package, tmp_path):
    address, env = head
    stories = {
        "recipe": "babylm_story", "prompt": "p3", "model": "fake", "output": {"rows_per_shard": 5},
        "input": {"path": "pipelines/data/demo_corpus.jsonl", "columns": {"emotion": "emotions"}, "limit": 40},
    }  # fmt: skip
    stage = {
        "kind": "clm", "parts": {"own": {"run": "${stories}"}}, "max_length": 32, "dev": 0.3,
        "optimizer": {"max_steps": 3},
    }  # fmt: skip
    sizes = {"layers": 1, "heads": 2, "width": 32, "context": 256}
    student = {"model": {"id": "embedded", "from_config": sizes}, "stages": [stage]}
    corpus = {"words": 200, "parts": {"own": {"run": "${stories}"}}}
    jobs = {"stories": stories, "corpus": corpus, "student": student}
    study = {"name": "small", "output": "relative", "jobs": jobs}
    write_job(package / "study.yaml", study)

    def submit(*options):
        where = ["--address", address, "--working-dir", "."]
        command = ["python", "-m", "pipelines", "reproduce", "study.yaml", "--json", *options]
        return ray_job(env, "submit", *where, "--", *command, cwd=package)

    refused = submit()
    assert refused.returncode != 0 and "an absolute path that all nodes share" in refused.stdout + refused.stderr
    output = tmp_path / "study"
    done = submit(f"--set=output={output}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"study"')))
    assert result["states"] == dict.fromkeys(jobs, "done") and (output / "report.html").is_file()
    assert "small-student: done" in (output / "jobs/student.log").read_text()  # as a Ray task of the cluster

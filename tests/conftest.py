"""Shared by all tests: a HOME of their own, one Ray cluster, one real engine's run, and a job on the fake engine."""

import os
import tempfile

# Before Ray or Hugging Face are imported: neither may read or write the developer's own settings, nor the network.
# The model cache is shared between runs on purpose: turning the embedded model into a checkpoint takes 25 s.
_SHARED_CACHE = os.environ.get("KINDLING_CACHE") or os.path.expanduser("~/.cache/kindling")
os.environ.update(
    {
        "HOME": tempfile.mkdtemp(prefix="kindling-home-"),
        "KINDLING_CACHE": _SHARED_CACHE,
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
)
for _name in ("RAY_ADDRESS", "HF_HOME", "XDG_CACHE_HOME", "LD_PRELOAD"):
    os.environ.pop(_name, None)

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


# Of the fast tests these files take longest: they begin, so that the two processes of `make test` end together.
_LONGEST_FILES = ["test_augment.py", "test_real_engine.py", "test_deaths.py", "test_pools.py", "test_labelling.py"]


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(_LONGEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray for each process of the test run; its address."""
    import ray

    context = ray.init(
        "local", num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20,
        logging_level="ERROR",
    )  # fmt: skip
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture
def contexts(tmp_path):
    """40 labelled sentences in a JSONL file."""
    path = tmp_path / "contexts.jsonl"
    write_jsonl(path, [{"context": f"Sentence number {i} is here.", "emotion": "joy"} for i in range(40)])
    return path


@pytest.fixture
def fake_job(tmp_path, contexts):
    """A job on the fake engine, as a dict to change."""
    return {
        "name": "fake",
        "input": {"path": str(contexts)},
        "recipe": "babylm_story",
        "model": {"id": "fake"},
        "sampling": {"max_tokens": 32},
        "engine": {"max_num_seqs": 8},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(tmp_path / "run"), "rows_per_shard": 8},
        "metrics": {"port": 0, "targets": None},  # the developer's own Prometheus need not find it
    }


@pytest.fixture
def kindling(tmp_path):
    """Runs the command line in a process of its own: kindling("verify", run) -> CompletedProcess."""

    def run(*arguments, cwd=tmp_path, **options):
        command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=cli_env(), capture_output=True, text=True, timeout=300, **options)

    return run


def cli_env(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_job(path, job):
    Path(path).write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    return str(path)


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def finished_rows(run):
    from pipelines import status
    from schemas.errors import KindlingError

    try:
        return sum(status(run).rows.values())
    except KindlingError:
        return 0


def gone(pids, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(_runs, pids)):
            return True
        time.sleep(0.2)
    return False


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

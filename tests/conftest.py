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
        "VLLM_LOGGING_LEVEL": "INFO",  # importing trl would set it to ERROR, and tests read the log of engines
    }
)
for _name in ("RAY_ADDRESS", "HF_HOME", "XDG_CACHE_HOME", "LD_PRELOAD"):
    os.environ.pop(_name, None)

import signal
import subprocess
import sys

import pytest

from tests.support.files import write_jsonl
from tests.support.processes import cli_env

# A test run under `nohup` would hand an ignored SIGHUP on to the jobs that it starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

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


@pytest.fixture(scope="module")
def one_thread():
    """Tiny models gain nothing by more, and wait for each other's on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a tiny GPT-2."""
    from tests.support.tiny_models import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def answers(tmp_path):
    """60 instructions, each with the same kind of answer; a JSONL file."""
    rows = [{"instruction": f"Say {i}.", "input": "" if i % 2 else "now", "text": f"Glad to: {i}!"} for i in range(60)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return str(tmp_path / "rows.jsonl")

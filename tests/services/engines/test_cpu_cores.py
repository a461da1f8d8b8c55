"""Reservations of CPU cores, and the environment of a CPU engine."""

import os
import subprocess
import sys

import pytest

from schemas.errors import EngineError
from schemas.job import Model
from services.engines import cpu_settings
from services.engines.cpu_cores import CoreClaim, one_thread_per_core
from services.engines.cpu_settings import cpu_environment, set_cpu_environment
from services.engines.engine import EngineSpec
from tests.support.files import ROOT
from tests.support.processes import wait_for

ALL = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Engines that run on this machine hold cores too."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_claims_are_disjoint_until_there_are_no_cores_left():
    claims = [CoreClaim(1) for _ in ALL]
    assert sorted(core for claim in claims for core in claim.cores) == ALL
    beyond = CoreClaim(1)
    assert (beyond.cores, beyond.missing, claims[0].missing) == ((ALL[0],), 1, 0)


def test_a_claim_takes_what_is_free_where_that_is_less():
    held = CoreClaim(1)
    assert set(CoreClaim(len(ALL)).cores) == set(ALL) - set(held.cores)


def test_a_killed_process_gives_its_cores_back(tmp_path):
    code = (
        "from services.engines.cpu_cores import CoreClaim; c = CoreClaim(999); print(len(c.cores), flush=True); input()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    other = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert int(other.stdout.readline()) == len(ALL)
    other.kill()
    other.wait()
    assert wait_for(lambda: CoreClaim(len(ALL)).cores) == tuple(ALL)


@pytest.fixture
def clean(monkeypatch):
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")
    return monkeypatch


def spec(*cores, **engine):
    return EngineSpec(Model(), engine, cores=cores)


def test_ranks_of_an_engine_share_its_cores(clean):
    clean.setattr(cpu_settings, "_ALLOCATORS", ())
    set_cpu_environment(spec(2, 3, 4, 5, tensor_parallel_size=2))
    assert cpu_environment() == {"VLLM_CPU_OMP_THREADS_BIND": "2,3|4,5"}


def test_an_allocator_is_preloaded_where_one_is_installed(clean, tmp_path):
    library = tmp_path / "libtcmalloc_minimal.so.4"
    clean.setattr(cpu_settings, "_ALLOCATORS", (str(tmp_path / "*.so.4"),))
    set_cpu_environment(spec())
    assert cpu_environment() == {}
    library.touch()
    set_cpu_environment(spec())
    assert cpu_environment() == {"LD_PRELOAD": str(library)}


def test_an_allocator_that_the_user_chose_stays(clean, tmp_path):
    (tmp_path / "libtcmalloc_minimal.so.4").touch()
    clean.setattr(cpu_settings, "_ALLOCATORS", (str(tmp_path / "*.so.4"),))
    clean.setenv("LD_PRELOAD", "/opt/libjemalloc.so")
    set_cpu_environment(spec())
    assert cpu_environment() == {"LD_PRELOAD": "/opt/libjemalloc.so"}


def test_a_folder_of_claims_that_somebody_else_made_is_refused(tmp_path):
    folder = tmp_path / f"kindling-cores-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="is not private"):
        CoreClaim(1)
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EngineError, match="is not private"):
        CoreClaim(1)


def test_no_two_engines_share_a_core_and_each_computes_on_one_thread_of_it(monkeypatch):
    """As Linux numbers the threads of four cores with two each."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr("services.engines.cpu_cores._threads_of_core", lambda core: [core % 4, core % 4 + 4])
    claims = [CoreClaim(4), CoreClaim(4)]
    assert [set(claim.cores) for claim in claims] == [{0, 4, 1, 5}, {2, 6, 3, 7}]
    assert [one_thread_per_core(claim.cores) for claim in claims] == [[0, 1], [2, 3]]

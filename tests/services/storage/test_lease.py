"""The lease: one driver at a time may write to a run folder, also after crashes and lost connections."""

import os
import signal
import subprocess
import sys
import time

import fsspec
import pytest

from schemas.errors import JobError, RunError
from services.storage import lease
from services.storage.lease import LeaseLostError, hold_lease
from services.storage.store import LOCK_NAME, ShardStore
from tests.support.processes import cli_env


def test_a_second_driver_is_refused_and_the_error_names_the_first(tmp_path):
    with (
        hold_lease(ShardStore(str(tmp_path))) as held,
        pytest.raises(RunError, match=f"another driver works on this run: process {os.getpid()} on"),
        hold_lease(ShardStore(str(tmp_path))),
    ):
        pass
    with hold_lease(ShardStore(str(tmp_path))) as held:
        held.check()


def test_a_crash_releases_the_lease_at_once(tmp_path):
    code = f"""
import time
from services.storage.lease import hold_lease
from services.storage.store import ShardStore
with hold_lease(ShardStore({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=cli_env(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"process {process.pid}"), hold_lease(ShardStore(str(tmp_path))):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with hold_lease(ShardStore(str(tmp_path))):
        pass


@pytest.mark.parametrize("anew", [False, True])
def test_a_lock_that_was_removed_is_noticed(tmp_path, anew):
    with hold_lease(ShardStore(str(tmp_path))) as held:
        (tmp_path / LOCK_NAME).unlink()
        if anew:
            (tmp_path / LOCK_NAME).touch()
        with pytest.raises(LeaseLostError):
            held.check()


@pytest.mark.parametrize("url", ["webhdfs://127.0.0.1:1/run", "simplecache::memory://run"])
def test_a_file_system_without_atomic_writes_is_refused(url):
    with pytest.raises(JobError, match="does not appear as a whole"), hold_lease(ShardStore(url)):
        pass


@pytest.fixture
def remote(monkeypatch):
    """A file system without locks, on which a lease is void after a second."""
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_VOID_SECONDS", 1.0)
    url = "memory://lease/run"
    yield url
    memory = fsspec.filesystem("memory")
    if memory.exists("/lease"):
        memory.rm("/lease", recursive=True)


def test_on_an_object_store_a_second_driver_is_refused_as_soon_as_the_first_renews(remote):
    with hold_lease(ShardStore(remote)) as held, pytest.raises(RunError, match="another driver"):
        with hold_lease(ShardStore(remote)):
            pass
        held.check()


def test_on_an_object_store_a_dead_drivers_lease_is_void_after_a_while(remote):
    store = ShardStore(remote)
    store.write_text(LOCK_NAME, '{"holder": "process 1 on a machine that is gone", "nonce": "x", "renewals": 7}')
    began = time.monotonic()
    with hold_lease(store) as held:
        assert time.monotonic() - began >= 1.0
        held.check()
    assert store.is_empty() and LOCK_NAME not in store.list_names("")


def test_on_an_object_store_a_lease_that_another_driver_took_is_noticed(remote):
    store = ShardStore(remote)
    with hold_lease(store) as held:
        store.write_text(LOCK_NAME, '{"holder": "another", "nonce": "y", "renewals": 1}')
        time.sleep(0.5)
        with pytest.raises(LeaseLostError):
            held.check()
    assert LOCK_NAME in store.list_names("")  # it is the other's


def test_on_an_object_store_a_lease_that_cannot_be_renewed_runs_out(remote, monkeypatch):
    store = ShardStore(remote)
    with hold_lease(store) as held:
        monkeypatch.setattr(lease._RenewedObject, "_write", lambda self: (_ for _ in ()).throw(OSError("no network")))
        time.sleep(1.2)
        with pytest.raises(LeaseLostError):
            held.check()

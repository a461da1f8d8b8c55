"""The lease: one driver at a time may write to a run folder, also after crashes and lost connections."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pytest

from pipelines import verify
from pipelines.cli import main
from schemas.errors import BudgetError, EngineError, JobError, RunError, StoppedError
from schemas.rows import ACCEPTED, ERROR, REJECTED
from schemas.run import Retry
from services.storage import lease
from services.storage.lease import LastDriver, LeaseLostError, hold_lease, read_lease
from services.storage.shard_index import read_index, remove_unlisted_siblings
from services.storage.store import LOCK_NAME, ShardStore
from tests.support.processes import cli_env
from tests.support.runs import OURS, ROWS, batch, manifest, run_of, table
from tests.support.stores import FakeS3


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


@pytest.mark.parametrize("place", ["tmp_path", "remote"])
def test_the_lease_says_how_its_last_holder_ended(request, place):
    store = ShardStore(str(request.getfixturevalue(place)))
    assert read_lease(store) == LastDriver(is_running=False)
    with hold_lease(store, command="kindling augment a.yaml"):
        assert read_lease(store) == LastDriver(is_running=True, command="kindling augment a.yaml")
    assert read_lease(store) == LastDriver(False, "finished", "", "kindling augment a.yaml")
    for error, ended, text in (
        (StoppedError("", None, "by a signal", "the same command resumes"), "stopped", "by a signal; remedy: the"),
        (KeyboardInterrupt(), "stopped", ""),
        (EngineError("model.id", "x", "it has no weights", "name another"), "failed", "it has no weights"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ):
        with pytest.raises(type(error)), hold_lease(store):
            raise error
        driver = read_lease(store)
        assert (driver.ended, driver.command) == (ended, "kindling augment a.yaml") and text in driver.error
    # The job of another run says nothing about this one.
    with pytest.raises(RunError), hold_lease(store, command="kindling augment other.yaml"):
        raise RunError("output.path", store.url, "the folder holds the output of another job", "name another")
    assert read_lease(store) == driver


def test_a_reader_of_a_lock_does_not_stop_a_driver(tmp_path):
    store = ShardStore(str(tmp_path))
    with hold_lease(store):
        pass
    reader = os.open(tmp_path / LOCK_NAME, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [reader]).start()
    with hold_lease(store) as held:
        held.check()


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
    assert store.is_empty() and read_lease(store).ended == "finished"


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
        monkeypatch.setattr(
            lease._RenewedObject, "_write", lambda self, version: (_ for _ in ()).throw(OSError("no network"))
        )
        time.sleep(1.2)
        with pytest.raises(LeaseLostError):
            held.check()


# Conditional stores: forced timing. `RUN` is held for a second without a renewal, and renewed every tenth.

RUN = "s3://bucket/run"


@pytest.fixture
def brief(monkeypatch, s3):
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_VOID_SECONDS", 1.0)
    return s3


def drivers(number):
    """Lets drivers, each in a thread, try to take the lease at once; (names of those that got it, errors)."""
    held, errors = [], []

    def drive():
        try:
            with hold_lease(ShardStore(RUN)) as mine:
                held.append(threading.current_thread().name)
                end = time.monotonic() + 10
                while len(held) + len(errors) < number and time.monotonic() < end:
                    mine.check()
                    time.sleep(0.01)
        except (RunError, LeaseLostError) as error:
            errors.append(error)

    threads = [threading.Thread(target=drive) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return held, errors


def delayed(monkeypatch, delays):
    """Delays each write of the lock by the next of these times, in seconds."""
    left = list(delays)
    monkeypatch.setattr(FakeS3, "on_put", staticmethod(lambda path: time.sleep(left.pop(0) if left else 0)))


@pytest.mark.parametrize("delays", [[0, 0], [0, 0.2], [0.2, 0.2], [0.2, 0]])
@pytest.mark.parametrize("left_behind", [False, True])
def test_of_two_drivers_whose_writes_are_delayed_one_gets_the_lease(brief, monkeypatch, delays, left_behind):
    if left_behind:  # by a driver that died
        ShardStore(RUN).write_text(LOCK_NAME, '{"holder": "dead", "nonce": "x", "void_after_seconds": 0.3}')
    delayed(monkeypatch, delays)
    held, errors = drivers(2)
    assert len(held) == 1 and len(errors) == 1
    assert "another driver works on this run" in str(errors[0])


def test_a_renewal_that_arrives_late_does_not_take_the_lease_back(brief, monkeypatch):
    arrived, is_late = threading.Event(), threading.Event()

    def on_put(path):
        if threading.current_thread().name == "kindling-lease" and not is_late.is_set():
            is_late.set()
            arrived.wait(10)

    monkeypatch.setattr(FakeS3, "on_put", staticmethod(on_put))
    with hold_lease(ShardStore(RUN)) as first:
        assert is_late.wait(5)
        with hold_lease(ShardStore(RUN)) as second:
            with pytest.raises(LeaseLostError):  # by its own clock, before the second got it
                first.check()
            arrived.set()
            time.sleep(0.3)
            second.check()
            with pytest.raises(LeaseLostError):
                first.check()


def test_renewals_whose_answers_are_lost_keep_the_lease(brief, monkeypatch):
    def lose(path):
        if threading.current_thread().name == "kindling-lease":
            raise OSError(errno.EBUSY, "Service Unavailable")

    with hold_lease(ShardStore(RUN)) as held:
        monkeypatch.setattr(FakeS3, "answers", staticmethod(lose))
        for _ in range(30):
            time.sleep(0.05)
            held.check()


def test_a_renewal_that_was_applied_after_its_error_keeps_the_lease(brief, monkeypatch):
    late, write = [], FakeS3.pipe_file

    def write_late(*arguments, **options):
        with contextlib.suppress(OSError):  # refused: the driver tried again in the meantime
            write(*arguments, **options)

    def pipe_file(self, path, value, **options):
        if threading.current_thread().name == "kindling-lease" and len(late) < 3:
            late.append(threading.Timer(0.02, write_late, (self, path, value), options))
            late[-1].start()
            raise OSError(errno.EBUSY, "Service Unavailable")
        return write(self, path, value, **options)

    with hold_lease(ShardStore(RUN)) as held:
        monkeypatch.setattr(FakeS3, "pipe_file", pipe_file)
        for _ in range(30):
            time.sleep(0.05)
            held.check()
    assert len(late) == 3


def test_a_released_lease_is_taken_at_once_and_no_late_removal_can_free_it(brief, monkeypatch):
    removed = []
    monkeypatch.setattr(FakeS3, "rm_file", lambda self, path: removed.append(path))
    for _ in range(2):
        began = time.monotonic()
        with hold_lease(ShardStore(RUN)) as held:
            assert time.monotonic() - began < 0.3
            held.check()
    assert removed == [] and ShardStore(RUN).is_empty()


def test_a_driver_waits_as_long_as_the_holder_asks_for(brief, monkeypatch):
    ShardStore(RUN).write_text(LOCK_NAME, '{"holder": "slow", "nonce": "x", "void_after_seconds": 1.5}')
    monkeypatch.setattr(lease, "_VOID_SECONDS", 0.2)
    began = time.monotonic()
    with hold_lease(ShardStore(RUN)):
        assert time.monotonic() - began >= 1.5


def test_a_driver_that_lost_its_lease_in_the_middle_of_a_commit_loses_no_row(brief, monkeypatch):
    first, second = ShardStore(RUN), ShardStore(RUN)
    rows = table(batch(0, 3), batch(1, state=REJECTED), batch(2, state=ERROR))
    counts = {ACCEPTED: 2, REJECTED: 1, ERROR: 1}

    def on_put(path):
        if "/data/" in path:  # the siblings are there; the first driver stands still, and the second begins
            monkeypatch.setattr(FakeS3, "on_put", staticmethod(lambda path: None))
            second.remove_leftovers()
            for folder in ("errors", "rejected"):
                assert len(second.list_names(folder)) == 1

    monkeypatch.setattr(FakeS3, "on_put", staticmethod(on_put))
    written = first.commit(manifest(**counts), rows)
    with pytest.raises(FileExistsError, match="another driver"):
        second.commit(manifest(**counts), table(batch(0, 3), batch(1, 2, state=ERROR)))
    for relative, digest in written.siblings.items():
        assert hashlib.sha256(first.fs.cat_file(first.path(relative))).hexdigest() == digest
    assert [part["row_index"].to_pylist() for part in second.read_rows(ERROR)] == [[2]]
    assert [part["row_index"].to_pylist() for part in second.read_rows(REJECTED)] == [[1]]
    assert len(second.list_names("errors")) == 2  # the second's own, which no shard lists
    run = run_of(1)
    remove_unlisted_siblings(second, read_index(second, run), run)
    assert sorted(second.list_siblings()) == sorted(written.siblings)
    assert read_index(second, run).totals().outcomes.rejects == {"because": 1}


def test_siblings_of_an_uncommitted_shard_stay_on_an_object_store(brief, monkeypatch):
    store = ShardStore(RUN)
    store.commit(manifest(shard=1, accepted=2), table(batch(0, 1)))
    for name in ("part-00000.0123abcd.parquet", "part-00000.parquet", "part-00001.0123abcd.parquet"):
        store.write_text(f"errors/{name}", "x")
    store.remove_leftovers()
    remove_unlisted_siblings(store, read_index(store, run_of(2)), run_of(2))
    assert store.list_names("errors") == ["part-00000.0123abcd.parquet", "part-00000.parquet"]


def test_siblings_of_a_retry_that_a_later_one_superseded_are_leftovers_until_they_are_removed(brief):
    store, retries = ShardStore(RUN), [Retry(number=n, state=ERROR, rows=ROWS, fingerprint=OURS) for n in (1, 2)]
    rows = table(batch(0, 1, 2), batch(3, state=ERROR))
    written = store.commit(manifest(accepted=3, error=1), rows)
    run = run_of(1, retries=retries)
    store.write_run(run)
    left = ["errors/part-00000.0123abcd.parquet", "errors/part-00000.r1.0123abcd.parquet"]
    for path in left:  # of a driver that lost its lease in a commit, and of one that was killed in the first retry
        store.write_text(path, "x")
    verdict = verify(RUN)
    assert (verdict.faults, verdict.leftovers) == ([], left)
    assert verify(RUN, repair=True).moved == []
    remove_unlisted_siblings(store, read_index(store, run), run)
    assert list(store.list_siblings()) == list(written.siblings) and verify(RUN).leftovers == []


@pytest.mark.parametrize("command", ["rm -rf ~", "kindling augment a.yaml\x1b[2J", 7])
def test_a_command_that_another_person_wrote_into_a_lock_is_not_shown(tmp_path, command):
    (tmp_path / LOCK_NAME).write_text(json.dumps({"holder": "x", "command": command, "ended": "stopped"}))
    assert read_lease(ShardStore(str(tmp_path))) == LastDriver(False, "stopped")


@pytest.mark.parametrize("command", ["", " --set budget.tokens=10", " --set=budget.tokens=10"])
def test_after_a_budget_is_used_up_the_command_has_a_place_for_a_higher_limit(tmp_path, capsys, monkeypatch, command):
    error = BudgetError("budget.tokens", "10", "9 output tokens are used", "raise it")
    store, started_by = ShardStore(str(tmp_path)), f"kindling augment job.yaml{command}"
    resuming = "kindling augment job.yaml --set budget.tokens=MORE"
    for again in (started_by, resuming, ""):  # a call from Python keeps the command of the driver before
        with pytest.raises(BudgetError), hold_lease(store, command=again):
            raise error
        assert read_lease(store).command == resuming
    monkeypatch.setattr(sys, "argv", started_by.split())
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        main._end(error)
    assert f"resume with: {resuming}" in capsys.readouterr().err

"""Row logs of many shards: open files are bounded, and on an object store a kill costs seconds."""

import resource
import time
from pathlib import Path

import pytest

from schemas.rows import FinishedRows
from services.storage import object_log, row_log
from services.storage.object_log import ObjectLog
from services.storage.row_log import FileLog, open_row_log
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter, read_logged_rows
from services.storage.store import ShardStore
from tests.support.runs import ROWS, UNCONTESTED, batch, run_of, table

RUN = "s3://bucket/run"


def test_more_shards_than_a_process_may_have_files_are_logged(tmp_path):
    log = open_row_log(ShardStore(str(tmp_path)))
    assert isinstance(log, FileLog)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files + 150, before[1]))
    try:
        for row in (0, 1):
            for shard in range(200):
                log.append(shard, batch(row))
        log.drop(0)
        log.append(199, batch(2))
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    again = open_row_log(ShardStore(str(tmp_path)))
    assert again.shards() == list(range(1, 200))
    assert all(again.recover(shard).equals(table(batch(0), batch(1))) for shard in range(1, 199))
    assert again.recover(199).equals(table(batch(0), batch(1), batch(2)))


def test_closed_logs_are_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        row_log.os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
    )
    monkeypatch.setattr(row_log, "_MAX_OPEN_FILES", 2)
    monkeypatch.setattr(row_log, "SYNC_SECONDS", 0.0)
    log = open_row_log(ShardStore(str(tmp_path)))
    for shard in range(5):
        log.append(shard, batch(shard))
    synced.clear()
    log.sync_if_due()
    assert {path.name for path in synced} == {f"part-{shard:05d}.arrows" for shard in range(5)}


# Object stores


@pytest.fixture
def quick(s3, monkeypatch):
    monkeypatch.setattr(object_log, "FLUSH_SECONDS", 0.1)
    return s3


def names():
    return ShardStore(RUN).list_names("log")


def test_rows_of_all_shards_are_in_one_object_after_a_while(quick):
    log = open_row_log(ShardStore(RUN))
    assert isinstance(log, ObjectLog)
    for shard in range(50):
        log.append(shard, batch(shard))
        log.append(shard, batch(shard + 100))
    assert names() == []
    time.sleep(0.1)
    assert log.sync_if_due() == 0.1
    log.append(3, batch(7))
    assert log.sync_if_due() > 0 and len(names()) == 1
    time.sleep(0.1)
    log.sync_if_due()
    log.sync_if_due()
    assert len(names()) == 2
    again = open_row_log(ShardStore(RUN))
    assert again.shards() == list(range(50))
    assert again.recover(3).equals(table(batch(3, 103), batch(7)))
    assert all(again.recover(shard).num_rows == 2 for shard in range(50) if shard != 3)


def test_an_object_is_removed_with_the_last_of_its_shards(quick):
    log = open_row_log(ShardStore(RUN))
    for shards in ((0, 1), (1, 2)):
        for shard in shards:
            log.append(shard, batch(shard))
        log.close()
    log.append(1, batch(5))
    log.drop(1)
    assert len(names()) == 2
    log.drop(0)
    assert len(names()) == 1 and open_row_log(ShardStore(RUN)).shards() == [1, 2]
    again = open_row_log(ShardStore(RUN))
    for shard in (1, 2, 9):
        again.drop(shard)
    assert names() == []
    log.close()
    assert names() == []  # the row of a shard that was dropped waits for nothing


def test_two_drivers_write_objects_of_their_own(quick):
    logs = [open_row_log(ShardStore(RUN)) for _ in range(2)]
    for number, log in enumerate(logs):
        log.append(0, batch(number))
        log.close()
    assert len(names()) == 2 and open_row_log(ShardStore(RUN)).recover(0).num_rows == 2


def test_the_log_of_an_older_version_is_read_and_removed(quick, tmp_path):
    old = open_row_log(ShardStore(str(tmp_path)))
    old.append(4, batch(1, 2))
    old.close()
    store = ShardStore(RUN)
    store.fs.pipe_file(store.path("log/part-00004.arrows"), (tmp_path / "log" / "part-00004.arrows").read_bytes())
    store.write_text("log/part-00005.arrows", "torn")
    store.write_text("log/notes.txt", "mine")
    log = open_row_log(store)
    assert log.shards() == [4] and log.recover(4).equals(table(batch(1, 2)))
    log.drop(4)
    assert names() == ["notes.txt", "part-00005.arrows"]


def test_a_store_that_fails_costs_no_row_when_it_is_back(quick, monkeypatch):
    log = open_row_log(ShardStore(RUN))
    log.append(0, batch(0))
    monkeypatch.setattr(quick, "on_put", staticmethod(lambda path: (_ for _ in ()).throw(PermissionError("denied"))))
    with pytest.raises(OSError):
        log.close()
    monkeypatch.undo()
    ObjectLog.close(log)
    assert log.shards() == [0]


def test_a_driver_that_is_killed_loses_only_the_rows_of_the_last_seconds(quick):
    run, store, counted = run_of(2), ShardStore(RUN), []
    writer = ShardWriter(store, run, read_index(store, run), UNCONTESTED, counted.append, lambda manifest: None)
    for number in range(2):
        assert writer.open(number, number * ROWS, (number + 1) * ROWS) == set()
    writer.put(FinishedRows([0, 1, 4], [0, 0, 1], batch(0, 1, 4).serialize().to_pybytes(), 0))
    end = time.monotonic() + 10
    while not names() and time.monotonic() < end:
        time.sleep(0.02)
    # The driver is killed here: nothing is closed. The next one goes on.
    assert sum(rows.num_rows for rows in read_logged_rows(store, run, set())) == 3
    store = ShardStore(RUN)
    second = ShardWriter(store, run, read_index(store, run), UNCONTESTED, counted.append, lambda manifest: None)
    assert [second.open(number, number * ROWS, (number + 1) * ROWS) for number in range(2)] == [{0, 1}, {4}]
    second.put(FinishedRows([2, 3, 5, 6, 7], [0, 0, 1, 1, 1], batch(2, 3, 5, 6, 7).serialize().to_pybytes(), 0))
    second.close()
    assert second.error is None and store.committed_shards() == {0, 1} and names() == []
    rows = [row for part in store.read_rows(columns=["row_index"]) for row in part["row_index"].to_pylist()]
    assert rows == list(range(8))
    writer.close()

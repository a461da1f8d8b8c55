import hashlib
import io
import json
import re

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RunError
from schemas.rows import ACCEPTED, ERROR, REJECTED, ROW_SCHEMA, row_seed, to_batch
from schemas.run import RunRecord
from services.storage.filesystem import LEFTOVER_SUFFIX, write_atomic
from services.storage.row_log import open_row_log
from services.storage.store import ShardStore, shard_path
from tests.support.runs import batch, manifest, record, table

# Changing it would give every stored run other seeds than it was made with.
SEED_OF_THE_FIRST_ROW = 5229874695779165400


MIXED = table(batch(0, 3), batch(1, state=REJECTED), batch(2, state=ERROR))
MIXED_COUNTS = {ACCEPTED: 2, REJECTED: 1, ERROR: 1}


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# The row log


def log_path(folder, shard=0):
    return folder / "log" / f"part-{shard:05d}.arrows"


def row_log(folder):
    return open_row_log(ShardStore(str(folder)))


def recovered(folder, shard=0):
    rows = row_log(folder).recover(shard)
    assert rows.schema.equals(ROW_SCHEMA)
    rows.validate(full=True)
    return rows


def test_appended_rows_are_there_at_once_for_another_process(tmp_path):
    log = row_log(tmp_path)
    log.append(0, batch(0, 1))
    assert recovered(tmp_path).equals(table(batch(0, 1)))
    log.append(0, batch(2, state=ERROR))
    assert recovered(tmp_path).equals(table(batch(0, 1), batch(2, state=ERROR)))


def test_shards_have_logs_of_their_own(tmp_path):
    log = row_log(tmp_path)
    log.append(7, batch(7))
    log.append(123456, batch(8))
    assert log.shards() == [7, 123456]
    assert recovered(tmp_path, 7).equals(table(batch(7)))
    assert recovered(tmp_path, 123456).equals(table(batch(8)))


def test_a_shard_without_a_log_has_no_rows(tmp_path):
    assert recovered(tmp_path / "absent").num_rows == 0
    assert row_log(tmp_path / "absent").shards() == []


def test_a_second_process_continues_the_log_of_the_first(tmp_path):
    first = row_log(tmp_path)
    first.append(0, batch(0, 1))
    first.close()
    for i in range(2, 5):
        log = row_log(tmp_path)
        log.append(0, batch(i))
        log.close()
    assert recovered(tmp_path).equals(table(batch(0, 1), batch(2), batch(3), batch(4)))
    assert files_below(tmp_path) == ["log/part-00000.arrows"]


def test_drop_removes_only_the_log_of_its_shard(tmp_path):
    log = row_log(tmp_path)
    log.append(0, batch(0))
    log.append(1, batch(1))
    log.drop(0)
    log.drop(5)
    assert files_below(tmp_path) == ["log/part-00001.arrows"]
    assert recovered(tmp_path).num_rows == 0
    log.append(1, batch(2))
    log.append(0, batch(3))
    assert recovered(tmp_path, 1).num_rows == 2
    assert recovered(tmp_path, 0).equals(table(batch(3)))


def test_a_log_torn_at_any_byte_gives_back_its_whole_batches(tmp_path):
    log = row_log(tmp_path)
    batches, ends = [], []
    for indices in ((0, 1), (2,), (3, 4, 5)):
        batches.append(batch(*indices))
        log.append(0, batches[-1])
        ends.append(log_path(tmp_path).stat().st_size)
    log.close()
    whole = log_path(tmp_path).read_bytes()
    assert ends[-1] == len(whole)
    for size in range(len(whole) + 1):
        log_path(tmp_path).write_bytes(whole[:size])
        complete = sum(end <= size for end in ends)
        assert recovered(tmp_path).equals(table(*batches[:complete])), f"torn at byte {size}"


def test_a_torn_log_goes_on_after_its_whole_batches(tmp_path):
    log = row_log(tmp_path)
    log.append(0, batch(0, 1))
    kept = log_path(tmp_path).stat().st_size
    log.append(0, batch(2))
    log.close()
    whole = log_path(tmp_path).read_bytes()
    for size in (0, 1, 100, kept - 1, kept, kept + 1, (kept + len(whole)) // 2, len(whole) - 1):
        log_path(tmp_path).write_bytes(whole[:size])
        before = recovered(tmp_path)
        again = row_log(tmp_path)
        again.append(0, batch(8))
        again.append(0, batch(9))
        again.close()
        assert recovered(tmp_path).equals(pa.concat_tables([before, table(batch(8), batch(9))]))
        assert files_below(tmp_path) == ["log/part-00000.arrows"]


def test_a_log_whose_end_became_zeros_gives_back_what_lies_before(tmp_path):
    log = row_log(tmp_path)
    log.append(0, batch(0, 1))
    kept = log_path(tmp_path).stat().st_size
    log.append(0, batch(2))
    log.close()
    whole = log_path(tmp_path).read_bytes()
    for size in range(kept, len(whole)):
        zeroed = whole[:size] + bytes(len(whole) - size + 64)
        log_path(tmp_path).write_bytes(zeroed)
        expected = table(batch(0, 1), batch(2)) if zeroed.startswith(whole) else table(batch(0, 1))
        assert recovered(tmp_path).equals(expected), f"zeros from byte {size}"


def test_a_log_with_other_content_has_no_rows(tmp_path):
    log_path(tmp_path).parent.mkdir()
    log_path(tmp_path).write_bytes(b"no Arrow at all" * 100)
    assert recovered(tmp_path).num_rows == 0


# Writing whole files


def test_write_atomic_makes_folders_and_replaces(tmp_path):
    fs, path = fsspec.filesystem("file"), tmp_path / "a" / "b" / "file"
    write_atomic(fs, str(path), b"one")
    write_atomic(fs, str(path), b"two")
    assert path.read_bytes() == b"two"
    assert files_below(tmp_path) == ["a/b/file"]


def test_write_atomic_leaves_nothing_behind_when_it_fails(tmp_path):
    fs = fsspec.filesystem("file")
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        write_atomic(fs, str(tmp_path / "file"), b"data")
    assert files_below(tmp_path) == []
    assert (tmp_path / "file").is_dir()


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path):
    fs, path = fsspec.filesystem("file"), tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomic(fs, str(path), "text is no bytes")
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == ["file"]


# The store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        yield ShardStore(str(tmp_path / "run"))
        return
    yield ShardStore(f"memory://store-test-{tmp_path.name}")
    fs = fsspec.filesystem("memory")
    fs.rm("/", recursive=True)


def test_a_store_says_whether_it_can_append(tmp_path):
    assert ShardStore(str(tmp_path)).can_append
    assert ShardStore(f"file://{tmp_path}").can_append
    assert not ShardStore("memory://x").can_append


def test_a_commit_can_be_read_back(store):
    assert store.committed_shards() == set()
    given = manifest(**MIXED_COUNTS)
    written = store.commit(given, MIXED)
    assert store.committed_shards() == {0}
    assert store.read_manifest(0) == written
    assert written.model_copy(update={"siblings": {}}) == given
    names = {re.sub(r"\.[0-9a-f]{8}\.", ".", path) for path in written.siblings}
    assert names == {"rejected/part-00000.parquet", "errors/part-00000.parquet"}
    assert store.can_append == (names == set(written.siblings))  # on an object store each driver has its own names
    for relative, digest in written.siblings.items():
        assert hashlib.sha256(store.fs.cat_file(store.path(relative))).hexdigest() == digest
    for folder, indices in (("data", [0, 3]), ("rejected", [1]), ("errors", [2])):
        rows = store.read_table(written.sibling(folder) or shard_path(folder, 0))
        assert rows["row_index"].to_pylist() == indices
        assert rows.to_pylist() == [row for row in MIXED.to_pylist() if row["row_index"] in indices]


def test_every_file_of_a_shard_has_the_row_schema_and_no_nulls(store):
    written = store.commit(manifest(**MIXED_COUNTS), MIXED)
    for folder in ("data", "rejected", "errors"):
        rows = store.read_table(written.sibling(folder) or shard_path(folder, 0))
        assert rows.schema.equals(ROW_SCHEMA)
        assert [column.null_count for column in rows.columns] == [0] * len(ROW_SCHEMA)
        assert not any(field.nullable for field in rows.schema)
        assert all(field.metadata[b"description"] for field in rows.schema)


def test_a_shard_without_rejects_and_errors_has_no_siblings(store):
    written = store.commit(manifest(accepted=2, end=2), table(batch(0, 1)))
    assert written.siblings == {}
    assert not store.fs.exists(store.path("rejected")) and not store.fs.exists(store.path("errors"))


def test_a_shard_whose_rows_all_failed_is_committed(store):
    store.commit(manifest(error=2, end=2), table(batch(0, 1, state=ERROR)))
    assert store.committed_shards() == {0}
    assert store.read_table("data/part-00000.parquet").num_rows == 0
    assert store.read_table("data/part-00000.parquet").schema.equals(ROW_SCHEMA)
    assert store.read_manifest(0).counts == {ACCEPTED: 0, REJECTED: 0, ERROR: 2}


def test_rows_come_shard_by_shard(store):
    for shard, indices in ((11, (4, 5)), (2, (2, 3)), (100000, (6,))):
        rows = table(batch(*indices), batch(*(i + 10 for i in indices), state=ERROR))
        store.commit(manifest(shard=shard), rows)
    store.commit(manifest(shard=3), table(batch(20)))
    assert store.committed_shards() == {2, 3, 11, 100000}

    def indices(state):
        return [i for part in store.read_rows(state, ["row_index"]) for i in part["row_index"].to_pylist()]

    assert indices(ACCEPTED) == [2, 3, 20, 4, 5, 6]
    assert indices(ERROR) == [12, 13, 14, 15, 16]
    assert indices(REJECTED) == []


def test_siblings_are_written_before_the_data_that_commits_them(tmp_path):
    store = ShardStore(str(tmp_path))
    (tmp_path / "data").write_text("a file where the folder belongs")
    with pytest.raises(OSError):
        store.commit(manifest(**MIXED_COUNTS), MIXED)
    assert store.committed_shards() == set()
    assert files_below(tmp_path) == ["data", "errors/part-00000.parquet", "rejected/part-00000.parquet"]
    assert store.read_table("errors/part-00000.parquet")["row_index"].to_pylist() == [2]
    (tmp_path / "data").unlink()
    store.commit(manifest(**MIXED_COUNTS), MIXED)
    assert store.committed_shards() == {0}


def test_a_shard_whose_siblings_cannot_be_written_is_not_committed(tmp_path):
    store = ShardStore(str(tmp_path))
    (tmp_path / "rejected" / "part-00000.parquet").mkdir(parents=True)
    with pytest.raises(OSError):
        store.commit(manifest(**MIXED_COUNTS), MIXED)
    assert store.committed_shards() == set()
    assert not (tmp_path / "data").exists()


def test_only_files_with_a_shard_name_are_committed_shards(tmp_path):
    store = ShardStore(str(tmp_path))
    store.commit(manifest(**MIXED_COUNTS), MIXED)
    for name in (".part-00001.parquet.77.tmp", "part-2.parquet", "part-00003.parquet.bak", "xpart-00004.parquet"):
        (tmp_path / "data" / name).write_bytes(b"")
    assert store.committed_shards() == {0}


def test_a_null_is_never_written(store):
    columns = [pa.nulls(1, f.type) if f.name == "text" else batch(0)[f.name] for f in ROW_SCHEMA]
    rows = pa.Table.from_batches([pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)])
    with pytest.raises(pa.ArrowInvalid, match="text"):
        store.commit(manifest(), rows)
    assert store.committed_shards() == set()


def test_a_row_without_a_column_is_refused():
    row = record(0)
    del row["seed"]
    with pytest.raises(KeyError, match="seed"):
        to_batch([row])


def test_a_flipped_byte_in_any_column_is_noticed(tmp_path):
    store = ShardStore(str(tmp_path))
    store.commit(manifest(accepted=4), table(batch(0, 1, 2, 3)))
    path = tmp_path / "data" / "part-00000.parquet"
    whole = path.read_bytes()
    expected = store.read_table("data/part-00000.parquet")
    group = pq.read_metadata(path).row_group(0)
    unnoticed = []
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        end = start + column.total_compressed_size
        # The last bytes of a column's chunk are the body of its last page; the first are a header, without a checksum.
        for position in range(end - 6, end):
            damaged = bytearray(whole)
            damaged[position] ^= 0x01
            path.write_bytes(damaged)
            try:
                found = store.read_table("data/part-00000.parquet")
            except (OSError, pa.ArrowInvalid):
                continue
            unnoticed.append((column.path_in_schema, position - end, found.equals(expected)))
    assert unnoticed == []


def test_a_torn_data_file_is_refused(tmp_path):
    store = ShardStore(str(tmp_path))
    store.commit(manifest(accepted=1, end=1), table(batch(0)))
    path = tmp_path / "data" / "part-00000.parquet"
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match="not a whole shard"):
            store.read_manifest(0)


def test_a_parquet_file_of_another_program_is_refused(tmp_path):
    store = ShardStore(str(tmp_path))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "data" / "part-00000.parquet")
    with pytest.raises(RunError, match="no manifest"):
        store.read_manifest(0)


def test_a_manifest_with_keys_of_a_newer_version_is_refused(tmp_path):
    store = ShardStore(str(tmp_path))
    (tmp_path / "data").mkdir()
    newer = json.dumps({**manifest().model_dump(), "added_later": 1})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, ROW_SCHEMA) as writer:
        writer.add_key_value_metadata({"kindling.manifest": newer})
    (tmp_path / "data" / "part-00000.parquet").write_bytes(sink.getvalue())
    with pytest.raises(RunError, match="added_later"):
        store.read_manifest(0)


def run_record(**changes):
    facts = {"name": "r", "created_at": "2026-01-02T03:04:05+00:00", "job": {"a": {"b": [1]}}, "fingerprint": "f"}
    shape = {"identity": {"x": 1}, "inputs": [], "segments": [4], "samples": 1, "rows_per_shard": 2}
    return RunRecord(**{**facts, **shape, **changes})


def test_run_json_can_be_read_back(store):
    assert store.is_empty()
    assert store.read_run() is None
    run = run_record(segments=[200, 250], engine={"device": "cpu"})
    store.write_run(run)
    assert store.read_run() == run
    assert not store.is_empty()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', run_record().model_dump_json()[:-1] + ', "new": 1}'])
def test_a_run_json_with_other_content_is_refused(store, text):
    store.write_text("run.json", text)
    with pytest.raises(RunError, match=r"run\.json") as raised:
        store.read_run()
    assert raised.value.remedy


# Seeds


def test_seeds_stay_what_they_are():
    assert row_seed(0, "in.jsonl", 0, 0) == SEED_OF_THE_FIRST_ROW
    assert row_seed(0, "in.jsonl", 0, 0, attempt=0) == SEED_OF_THE_FIRST_ROW


def test_each_part_of_a_rows_identity_changes_its_seed():
    seeds = [row_seed(*identity) for identity in [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0)]]
    seeds += [row_seed(0, "a", 0, 1), row_seed(0, "a", 0, 0, attempt=1)]
    assert len(set(seeds)) == 6


identities = st.tuples(st.integers(-(2**70), 2**70), st.text(max_size=8), st.integers(0, 2**40), st.integers(0, 99))


@given(st.lists(identities, min_size=2, max_size=30, unique=True))
def test_seeds_are_distinct_and_in_range(found):
    seeds = [row_seed(*identity) for identity in found]
    assert len(set(seeds)) == len(seeds)
    assert all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)


def test_a_hundred_thousand_rows_have_seeds_of_their_own():
    seeds = {row_seed(0, "in.jsonl", i, sample) for i in range(25_000) for sample in range(4)}
    assert len(seeds) == 100_000
    assert max(seeds) > 2**62 > min(seeds)


def test_a_committed_shard_is_never_replaced(store):
    first = store.commit(manifest(accepted=1, end=1), table(batch(0)))
    with pytest.raises(FileExistsError):
        store.commit(manifest(accepted=1, end=1), table(batch(1)))
    assert store.read_manifest(0) == first


def test_a_folder_with_only_the_files_of_a_killed_first_write_is_empty(tmp_path):
    (tmp_path / "run.lock").write_text("")
    (tmp_path / f".run.json.4711{LEFTOVER_SUFFIX}").write_text("{")
    assert ShardStore(str(tmp_path)).is_empty()
    (tmp_path / ".hidden").write_text("")
    assert not ShardStore(str(tmp_path)).is_empty()


def test_a_run_json_that_cannot_be_read_is_not_taken_as_missing(tmp_path, monkeypatch):
    store = ShardStore(str(tmp_path))
    assert store.read_run() is None

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(store.fs, "cat_file", stale)
    with pytest.raises(OSError, match="Stale"):
        store.read_run()


def test_a_flipped_bit_in_a_page_is_no_row(tmp_path):
    store = ShardStore(str(tmp_path))
    store.commit(manifest(accepted=4), table(batch(0, 1, 2, 3)))
    path = tmp_path / shard_path("data", 0)
    whole = path.read_bytes()
    start = whole.index(b"PAR1") + 40
    for at in range(start, start + 2000, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            rows = pa.Table.from_batches(list(store.read_rows()))
        except (OSError, pa.ArrowException):
            continue
        assert rows.equals(table(batch(0, 1, 2, 3))), at

import shutil
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import status, verify
from pipelines.augmentation.plan import work_rows
from pipelines.inputs.reader import InputReader
from pipelines.recipes.babylm import BabylmStory
from schemas.errors import RunError
from schemas.job import Input
from schemas.outcomes import Outcomes
from schemas.rows import ACCEPTED, ERROR, REJECTED, FinishedRows, to_batch
from services.storage import shard_index, shard_writer
from services.storage.shard_index import INDEX_PATH, Totals, read_index
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore, shard_path
from tests.support.runs import EARLIER, FOREIGN, OURS, ROWS, UNCONTESTED, batch, manifest, record, run_of, table


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    yield ShardStore(str(tmp_path / "run") if request.param == "local" else f"memory://index-test-{tmp_path.name}")
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/", recursive=True)


RUN = run_of(50)


def commit(store, shard, fingerprint=OURS, again=False):
    """A shard whose numbers are all its own; generated again, its file has another size."""
    rejected = shard % 3
    accepted = [
        {**record(i), "finish_reason": "length" if i == shard % ROWS else "stop"} for i in range(rejected, ROWS)
    ]
    parts = [to_batch(accepted)]
    reasons = [{**record(i, REJECTED), "reason": f"reason {i}"} for i in range(rejected)]
    facts = {
        "fingerprint": fingerprint, "start": shard * ROWS, "end": (shard + 1) * ROWS,
        "prompt_tokens": 100 + shard, "cached_prompt_tokens": shard, "output_tokens": 50 + shard,
        "accepted_output_tokens": 30 + shard, "started_at": f"2026-01-02T03:{shard:02d}:00.500+00:00",
        "finished_at": f"2026-01-02T03:{shard + shard % 4:02d}:30.000+00:00",
        "versions": {"python": "3", "again": "yes" * 20} if again else {"python": "3"},
    }  # fmt: skip
    rows = table(*parts, *([to_batch(reasons)] if reasons else []))
    if shard != 4:  # one is of the version before, whose manifests did not have these
        outcomes = Outcomes.of(rows)
        facts |= {"cut_off": outcomes.cut_off, "rejects": dict(outcomes.rejects), "errors": dict(outcomes.errors)}
    written = manifest(shard, **{ACCEPTED: ROWS - rejected, REJECTED: rejected}).model_copy(update=facts)
    return store.commit(written, rows)


def from_footers(store):
    """The totals, taken the long way."""
    manifests = [store.read_manifest(shard) for shard in sorted(store.committed_shards())]
    outcomes = Outcomes()
    for each in manifests:
        outcomes.counts.update(each.counts)
        for path in (shard_path("data", each.shard), *each.siblings):
            for row in store.read_table(path).to_pylist():
                outcomes.cut_off += (row["state"], row["finish_reason"]) == (ACCEPTED, "length")
                reasons = {REJECTED: outcomes.rejects, ERROR: outcomes.errors}.get(row["state"], Counter())
                reasons[row["reason"]] += 1
    seconds, until = 0.0, None
    for each in sorted(manifests, key=lambda each: each.started_at):
        start, end = datetime.fromisoformat(each.started_at), datetime.fromisoformat(each.finished_at)
        start = max(start, until or start)
        seconds += max((end - start).total_seconds(), 0)
        until = max(end, until or end)
    sums = {
        name: sum(getattr(each, name) for each in manifests)
        for name in ("prompt_tokens", "cached_prompt_tokens", "output_tokens", "accepted_output_tokens")
    }
    return Totals(shards=len(manifests), outcomes=outcomes, active_seconds=seconds, **sums)


def saved(store, *shards):
    for shard in shards:
        commit(store, shard)
    read_index(store, RUN).save()


@pytest.fixture
def footers(monkeypatch):
    """Numbers of the shards whose footers are read."""
    shards = []
    read_manifest = ShardStore.read_manifest

    def counted(store, shard):
        shards.append(shard)
        return read_manifest(store, shard)

    monkeypatch.setattr(ShardStore, "read_manifest", counted)
    return shards


# What an index says


def test_a_run_without_shards_has_no_totals(store):
    index = read_index(store, RUN)
    assert (index.committed, index.totals()) == (set(), from_footers(store))
    index.save()
    assert not store.fs.exists(store.path(INDEX_PATH))


def test_without_an_index_every_footer_is_read(store):
    for shard in (0, 1, 2, 7, 40):
        commit(store, shard)
    index = read_index(store, RUN)
    assert (index.committed, index.totals()) == ({0, 1, 2, 7, 40}, from_footers(store))
    assert not store.fs.exists(store.path(INDEX_PATH))


def test_with_an_index_no_footer_is_read(store, footers):
    saved(store, 0, 1, 2, 7, 40)
    expected = from_footers(store)
    footers.clear()
    index = read_index(store, RUN)
    assert (index.committed, index.totals(), footers) == ({0, 1, 2, 7, 40}, expected, [])


def test_only_footers_of_shards_newer_than_the_index_are_read(store, footers):
    saved(store, 0, 1, 2)
    for shard in (3, 5, 30):
        commit(store, shard)
    footers.clear()
    index = read_index(store, RUN)
    assert sorted(footers) == [3, 5, 30]
    assert index.totals() == from_footers(store)
    index.save()
    footers.clear()
    assert read_index(store, RUN).totals() == index.totals() and footers == []


def test_a_shard_in_the_index_without_a_data_file_is_not_committed(store):
    saved(store, 0, 1, 2)
    store.fs.rm(store.path(shard_path("data", 1)))
    index = read_index(store, RUN)
    assert (index.committed, index.totals()) == ({0, 2}, from_footers(store))
    # Before shard 1 is generated again: what is in the index of it is no longer true then.
    index.save_if_due()
    commit(store, 1)
    assert pq.read_table(store.fs.open(store.path(INDEX_PATH)))["shard"].to_pylist() == [0, 2]


def test_a_data_file_of_another_size_is_read_again(store, footers):
    saved(store, 0, 1, 2)
    store.remove(shard_path("data", 1))  # as a repair does
    commit(store, 1, again=True)
    footers.clear()
    assert read_index(store, RUN).totals() == from_footers(store) and footers[0] == 1


def test_a_torn_data_file_is_refused_although_the_index_has_it(store):
    saved(store, 0, 1)
    path = store.path(shard_path("data", 1))
    store.fs.pipe_file(path, store.fs.cat_file(path)[:-10])
    with pytest.raises(RunError, match="not a whole shard"):
        read_index(store, RUN)


def test_shards_of_an_extended_run_are_its_own(store, footers):
    commit(store, 0, EARLIER)
    commit(store, 1)
    run = run_of(50, earlier_fingerprints=[EARLIER])
    read_index(store, run).save()
    footers.clear()
    assert read_index(store, run).totals() == from_footers(store) and footers.count(0) == 1


def test_a_shard_of_another_run_or_under_a_wrong_number_is_refused(store):
    """A resume would take its rows for those of the shard, which would never be generated."""
    commit(store, 1)
    commit(store, 2, FOREIGN)
    with pytest.raises(RunError, match="it belongs to another run") as raised:
        read_index(store, RUN)
    assert "verify RUN --repair" in raised.value.remedy
    store.remove(shard_path("data", 2))
    store.fs.copy(store.path(shard_path("data", 1)), store.path(shard_path("data", 3)))
    with pytest.raises(RunError, match="it holds shard 1 of this run"):
        read_index(store, RUN)


# An index that cannot be believed


def test_an_index_that_is_torn_or_flipped_anywhere_changes_nothing(tmp_path):
    store = ShardStore(str(tmp_path))
    saved(store, *range(6))
    expected, whole = from_footers(store), (tmp_path / INDEX_PATH).read_bytes()
    for at in range(0, len(whole), 37):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]):
            (tmp_path / INDEX_PATH).write_bytes(damaged)
            assert read_index(store, RUN).totals() == expected, at


def other_format(good):
    return good.replace_schema_metadata({b"kindling.index": b"0"})


def other_columns(good):
    return good.drop_columns(["output_tokens"])


def each_shard_twice(good):
    return pa.concat_tables([good, good])


def another_runs(good):
    values = pa.array([FOREIGN] * len(good)).dictionary_encode()
    wrong = pa.array([9] * len(good), pa.int64())
    schema = good.schema
    good = good.set_column(schema.get_field_index("fingerprint"), schema.field("fingerprint"), values)
    return good.set_column(schema.get_field_index(ACCEPTED), schema.field(ACCEPTED), wrong)


@pytest.mark.parametrize("change", [other_format, other_columns, each_shard_twice, another_runs])
def test_an_index_that_is_not_of_this_version_and_run_is_taken_for_absent(tmp_path, change):
    store = ShardStore(str(tmp_path))
    saved(store, 0, 1, 2)
    pq.write_table(change(pq.read_table(tmp_path / INDEX_PATH)), tmp_path / INDEX_PATH)
    index = read_index(store, RUN)
    assert (index.committed, index.totals()) == ({0, 1, 2}, from_footers(store))
    index.save()
    assert read_index(store, RUN).totals() == from_footers(store)


shards = st.integers(0, 7)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["commit", "again", "delete"]), shards),
        st.tuples(st.sampled_from(["save", "save if due", "forget", "go back"]), st.just(0)),
        st.tuples(st.just("tear"), st.integers(0, 3000)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_whatever_happened_the_totals_are_those_of_the_shards_on_disk(steps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store, path, old = ShardStore(str(folder)), folder / INDEX_PATH, b""
    for step, number in steps:
        data = folder / shard_path("data", number)
        if step in ("commit", "again") and not data.exists():
            read_index(store, RUN).save_if_due()  # as each start does before it generates
            commit(store, number, again=step == "again")
        elif step == "delete":
            data.unlink(missing_ok=True)
        elif step == "save":
            old = path.read_bytes() if path.exists() else old
            read_index(store, RUN).save()
        elif step == "forget":
            path.unlink(missing_ok=True)
        elif step == "tear" and path.exists():
            path.write_bytes(path.read_bytes()[:number])
        elif step == "go back" and old:
            path.write_bytes(old)
        index = read_index(store, RUN)
        assert (index.committed, index.totals()) == (store.committed_shards(), from_footers(store))
    shutil.rmtree(folder)


# Writing it


def test_the_entries_written_in_a_run_grow_in_proportion_to_its_shards(monkeypatch):
    monkeypatch.setattr(shard_index, "_MAX_UNSAVED_SHARDS", 10)
    store = ShardStore("memory://index-cost")
    monkeypatch.setattr(store, "file_size", lambda path: 1)
    sizes = []
    monkeypatch.setattr(shard_index, "write_atomic", lambda fs, path, data: sizes.append(index.table().num_rows))
    index = read_index(store, RUN)
    added, unsaved = 3000, []
    for shard in range(added):
        index.add(manifest(shard, accepted=1).model_copy(update={"cut_off": 0, "rejects": {}, "errors": {}}))
        index.save_if_due()
        unsaved.append(shard + 1 - (sizes[-1] if sizes else 0))
    assert max(unsaved) <= max(10, added * shard_index._MAX_UNSAVED_SHARE)
    assert sum(sizes) <= added / shard_index._MAX_UNSAVED_SHARE


def finished(shard, state=ACCEPTED):
    numbers = range(shard * ROWS, (shard + 1) * ROWS)
    return FinishedRows(list(numbers), [shard] * ROWS, batch(*numbers, state=state).serialize().to_pybytes(), 0)


def write(store, run, shards):
    """The writer's own way from rows to shards; what ended it early, if anything."""
    ranges = {number: (start, end) for number, start, end in run.shard_ranges()}
    writer = ShardWriter(store, run, read_index(store, run), UNCONTESTED, lambda rows: None, lambda manifest: None)
    for shard in shards:
        writer.open(shard, *ranges[shard])
        writer.put(finished(shard, REJECTED if shard % 2 else ACCEPTED))
    writer.close()
    return writer.error


def test_the_writer_leaves_an_index_with_the_totals_of_the_footers(store, footers):
    run = run_of(5)
    for some in ((0, 1, 2), (3, 4)):
        assert write(store, run, some) is None
        footers.clear()
        totals = read_index(store, run).totals()
        assert footers == [] and totals == from_footers(store)
    assert totals.outcomes.rejects == {"because": 2 * ROWS} and totals.shards == 5


def test_shards_are_kept_where_the_index_cannot_be_written(tmp_path):
    store = ShardStore(str(tmp_path))
    (tmp_path / INDEX_PATH / "in the way").mkdir(parents=True)
    assert isinstance(write(store, run_of(3), range(3)), OSError)
    assert read_index(store, run_of(3)).totals() == from_footers(store)
    assert store.committed_shards() == {0, 1, 2} and not list((tmp_path / "log").iterdir())


def test_rows_of_open_shards_stay_in_the_log_where_the_index_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "_MAX_UNSAVED_SHARDS", 1)
    store, run = ShardStore(str(tmp_path)), run_of(3)
    (tmp_path / INDEX_PATH / "in the way").mkdir(parents=True)
    logged = threading.Event()
    writer = ShardWriter(
        store, run, read_index(store, run), UNCONTESTED, lambda rows: logged.set(), lambda manifest: None
    )
    for shard in (0, 1):
        writer.open(shard, shard * ROWS, (shard + 1) * ROWS)
    logged.clear()
    writer.put(FinishedRows([ROWS], [1], batch(ROWS).serialize().to_pybytes(), 0))
    assert logged.wait(60)
    writer.put(finished(0))
    writer.close()
    assert isinstance(writer.error, OSError) and store.committed_shards() == {0}
    store.write_run(run)
    assert status(str(tmp_path)).rows[ACCEPTED] == ROWS + 1


def test_rows_that_memory_does_not_take_are_read_back_from_the_log(tmp_path, monkeypatch):
    def written(name):
        store, run = ShardStore(str(tmp_path / name)), run_of(2)
        writer = ShardWriter(store, run, read_index(store, run), UNCONTESTED, lambda rows: None, lambda manifest: None)
        for shard in (0, 1):
            writer.open(shard, shard * ROWS, (shard + 1) * ROWS)
        for index in (5, 0, 2, 7, 2, 3, 6, 1, 4):  # one arrives twice
            writer.put(FinishedRows([index], [index // ROWS], batch(index).serialize().to_pybytes(), 0))
            while writer._queue.qsize():
                time.sleep(0.005)
        writer.close()
        assert writer.error is None
        return [path.read_bytes() for path in sorted((tmp_path / name / "data").iterdir())]

    whole = written("whole")
    monkeypatch.setattr(shard_writer, "_MAX_OPEN_BYTES", 1)
    monkeypatch.setattr(shard_writer, "_MAX_WAITING_BYTES", 1)
    assert written("read_back") == whole and len(whole) == 2


def test_a_log_that_lost_rows_ends_the_writer_and_commits_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_MAX_OPEN_BYTES", 1)
    store, run, kept = ShardStore(str(tmp_path)), run_of(1), threading.Event()
    writer = ShardWriter(store, run, read_index(store, run), UNCONTESTED, lambda _: kept.set(), lambda manifest: None)
    writer.open(0, 0, ROWS)
    writer.put(FinishedRows([0, 1], [0, 0], batch(0, 1).serialize().to_pybytes(), 0))
    assert kept.wait(60)
    time.sleep(0.1)
    (tmp_path / "log" / "part-00000.arrows").write_bytes(b"")
    writer.put(FinishedRows([2, 3], [0, 0], batch(2, 3).serialize().to_pybytes(), 0))
    writer.close()
    assert "lost rows" in str(writer.error) and store.committed_shards() == set()


# Those who ask it


def test_a_deleted_shard_is_generated_again_and_no_other(tmp_path):
    (tmp_path / "in.txt").write_text("".join(f"{i}\n" for i in range(20)))
    reader = InputReader(Input(path=str(tmp_path / "in.txt")), ["text"])
    store, run = ShardStore(str(tmp_path / "run")), run_of(5)
    write(store, run, range(5))
    (tmp_path / "run" / shard_path("data", 3)).unlink()
    index = read_index(store, run)
    writer = ShardWriter(store, run, index, UNCONTESTED, lambda rows: None, lambda manifest: None)
    recipes = {"default": BabylmStory("p1")}
    assert [row.output_id for row in work_rows(run, reader, recipes, writer, index.committed)] == [12, 13, 14, 15]
    writer.close()
    write(store, run, [3])
    assert read_index(store, run).totals() == from_footers(store)


def test_status_is_the_same_with_any_index_and_verify_reads_every_file(tmp_path):
    store, run = ShardStore(str(tmp_path)), run_of(5)
    store.write_run(run)
    assert status(str(tmp_path)).shards == 0
    assert write(store, run, range(4)) is None
    index = (tmp_path / INDEX_PATH).read_bytes()
    write(store, run, [4])
    with_index = status(str(tmp_path))
    assert with_index.complete and with_index.rejects == {"because": 2 * ROWS}
    for content in (None, b"", b"no Parquet at all", index):
        (tmp_path / INDEX_PATH).unlink()
        if content is not None:
            (tmp_path / INDEX_PATH).write_bytes(content)
        assert status(str(tmp_path)) == with_index
        (tmp_path / INDEX_PATH).touch()
    assert verify(str(tmp_path)).faults == []
    data = Path(tmp_path, shard_path("data", 2))
    whole = data.read_bytes()
    data.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert [fault.path for fault in verify(str(tmp_path)).faults] == [shard_path("data", 2)]

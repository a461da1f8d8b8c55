import json
import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.augmentation.plan import plan_run, work_rows
from pipelines.inputs import jsonl_format
from pipelines.inputs.reader import InputReader
from pipelines.recipes import all_fields, make_recipes
from pipelines.run_folder import claimed
from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from schemas.fingerprint import difference, fingerprint, identity_of
from schemas.job import Input
from schemas.job_parsing import parse_job
from schemas.run import RunRecord
from services.storage.shard_index import read_index
from services.storage.store import ShardStore
from tests.support.runs import batch, manifest, table


def merged(job, changes):
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        job = {**job, section: merged(job.get(section, {}), {rest: value}) if rest else value}
    return job


def write_texts(path, *texts):
    path.write_text("".join(json.dumps({"messages": [{"role": "user", "content": t}]}) + "\n" for t in texts))
    return path


@pytest.fixture
def plan(tmp_path):
    """Plans a job over in/*.jsonl; the keyword arguments change it: plan(**{"sampling.top_p": 0.5})."""
    (tmp_path / "in").mkdir()
    write_texts(tmp_path / "in" / "a.jsonl", "a0", "a1", "a2", "a3")
    base = {
        "name": "plan",
        "input": {"path": str(tmp_path / "in")},
        "recipe": "messages",
        "model": {"id": "fake"},
        "output": {"path": str(tmp_path / "run"), "rows_per_shard": 2},
    }

    def plan(extend=False, **changes):
        job = parse_job(merged(base, changes), AugmentJob)
        recipes = make_recipes(job)
        store = ShardStore(job.output.path)
        with claimed(store, "augment"):
            run = plan_run(store, job, recipes, InputReader(job.input, all_fields(recipes)).inputs, extend)
        # A run holds its folder from its first row on.
        if store.can_append:
            Path(store.path("log")).mkdir(exist_ok=True)
            Path(store.path("log/part-00000.arrows")).touch()
        return run

    return plan


def refused(call):
    with pytest.raises(RunError) as raised:
        call()
    assert raised.value.cause and raised.value.remedy
    return raised.value


# Which rows each shard holds


def run_of(segments, rows_per_shard):
    return RunRecord(
        name="a", created_at="", job={}, fingerprint="", identity={}, inputs=[], segments=segments, samples=1,
        rows_per_shard=rows_per_shard,
    )  # fmt: skip


@given(
    steps=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    rows_per_shard=st.integers(1, 50),
)
def test_shards_cover_every_row_exactly_once_and_never_cross_a_segment(steps, rows_per_shard):
    segments = [sum(steps[: i + 1]) for i in range(len(steps))]
    run = run_of(segments, rows_per_shard)
    ranges = list(run.shard_ranges())
    assert [number for number, _, _ in ranges] == list(range(len(ranges)))
    assert [row for _, start, end in ranges for row in range(start, end)] == list(range(run.rows))
    assert all(0 < end - start <= rows_per_shard for _, start, end in ranges)
    assert len(ranges) == run.shards
    assert set(segments) <= {end for _, _, end in ranges}
    # A run that is extended keeps the shards that it had.
    before = list(run_of(segments[:-1] or segments, rows_per_shard).shard_ranges())
    assert ranges[: len(before)] == before


def test_shard_ranges_of_an_extended_run():
    assert list(run_of([5, 6, 10], 3).shard_ranges()) == [(0, 0, 3), (1, 3, 5), (2, 5, 6), (3, 6, 9), (4, 9, 10)]


MESSAGES = make_recipes(
    parse_job({"name": "a", "input": {"path": "x"}, "recipe": "messages", "output": {"path": "y"}}, AugmentJob)
)


class Taken:
    """In the writer's place: some rows of some shards were finished by an earlier process."""

    def __init__(self, done=None):
        self.done, self.opened = done or {}, []

    def open(self, shard, start, end):
        self.opened.append((shard, start, end))
        return self.done.get(shard, set())


@pytest.fixture
def opened(monkeypatch):
    """Paths of the input files in the order that they are opened in."""
    paths = []
    open_file = LocalFileSystem.open
    monkeypatch.setattr(
        LocalFileSystem,
        "open",
        lambda fs, path, *args, **more: paths.append(path) or open_file(fs, path, *args, **more),
    )
    return paths


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(committed=st.sets(st.integers(0, 20)), rows_per_shard=st.integers(1, 5), samples=st.integers(1, 2))
def test_the_rows_that_are_left_come_in_order_from_files_opened_once(
    tmp_path, opened, committed, rows_per_shard, samples
):
    files = [write_texts(tmp_path / f"{name}.jsonl", *(f"{name}{i}" for i in range(10))) for name in "ab"]
    reader = InputReader(Input(path=[str(file) for file in files]), ["messages"])
    run = run_of([20], rows_per_shard).model_copy(update={"samples": samples})
    done = {0: {0}, 1: set(range(rows_per_shard * samples, 2 * rows_per_shard * samples))}
    writer = Taken(done)
    opened.clear()
    rows = list(work_rows(run, reader, MESSAGES, writer, committed))
    left = [(shard, start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    assert writer.opened == left
    ids = {shard: set(range(start * samples, end * samples)) - done.get(shard, set()) for shard, start, end in left}
    assert [(row.output_id, row.shard) for row in rows] == [(u, s) for s, some in ids.items() for u in sorted(some)]
    for row in rows:
        number, sample = divmod(row.output_id, samples)
        assert (row.source, row.row_index, row.sample) == (str(files[number // 10]), number % 10, sample)
        assert row.values["messages"][0]["content"] == f"{'ab'[number // 10]}{number % 10}"
    assert opened == sorted({row.source for row in rows})


def test_a_hundred_thousand_committed_shards_are_stepped_over_without_reading(tmp_path, monkeypatch):
    reader = InputReader(Input(path=str(write_texts(tmp_path / "a.jsonl", *map(str, range(100_001))))), ["messages"])
    parsed = []
    monkeypatch.setattr(jsonl_format.json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    writer = Taken()
    rows = list(work_rows(run_of([100_001], 1), reader, MESSAGES, writer, set(range(100_000))))
    assert [row.output_id for row in rows] == [100_000] and len(parsed) == 1
    assert writer.opened == [(100_000, 100_000, 100_001)]


# What identifies a run

SPEED = {
    "name": "other",
    "cluster.address": "auto",
    "cluster.replicas": 4,
    "cluster.gpus_per_replica": 0.5,
    "cluster.cpus_per_replica": 2,
    "cluster.grace_seconds": 110.0,
    "cluster.wait_minutes": 5.0,
    "cluster.price_per_replica_hour": 2.5,
    "metrics.port": None,
    "metrics.host": "0.0.0.0",
    "metrics.targets": "/elsewhere",
    "output.path": "elsewhere",
    "input.storage_options": {"anon": True, "client_kwargs": {"region": "x"}},
    "engine.gpu_memory_utilization": 0.5,
    "engine.max_num_seqs": 3,
    "engine.max_num_batched_tokens": 4096,
    "engine.tensor_parallel_size": 2,
    "engine.pipeline_parallel_size": 2,
    "engine.enforce_eager": True,
    "engine.enable_prefix_caching": False,
}
IDENTITY = {
    "input.path": "other.jsonl",
    "input.split": "test",
    "input.revision": "abc",
    "input.format": "text",
    "input.delimiter": ";",
    "input.quotes": False,
    "quality": {"reject_truncated": True},
    "input.columns": {"messages": "chat"},
    "input.keep": ["id"],
    "input.limit": 3,
    "recipe": "babylm_story",
    "prompt": "p3",
    "samples": 2,
    "model.id": "other",
    "model.revision": "abc",
    "model.dtype": "float16",
    "model.quantization": "gptq",
    "model.trust_remote_code": True,
    "sampling.temperature": 0.5,
    "sampling.top_p": 0.5,
    "sampling.top_k": 5,
    "sampling.min_p": 0.5,
    "sampling.repetition_penalty": 1.5,
    "sampling.presence_penalty": 0.5,
    "sampling.frequency_penalty": 0.5,
    "sampling.max_tokens": 5,
    "sampling.min_tokens": 5,
    "sampling.stop": ["x"],
    "sampling.stop_token_ids": [5],
    "sampling.ignore_eos": True,
    "sampling.structured_outputs": {"json": {"type": "object"}},
    "sampling.repetition_detection": {"max_pattern_size": 4, "min_count": 3},
    "sampling.bad_words": ["x"],
    "sampling.logit_bias": {"5": -1},
    "classifier": {"id": "other"},
    "engine.max_model_len": 512,
    "engine.compilation_config.level": 0,
    "engine.kv_cache_dtype": "fp8",
    "output.rows_per_shard": 3,
    "seed": 1,
    "seeds": "none",
    "sweep.temperature": [0.5],
    "sweep": [{"temperature": 0.5}],
}
BASE = {"name": "a", "input": {"path": "x"}, "recipe": "messages", "output": {"path": "y"}}


def identity(changes=None, **facts):
    facts = {"prompt_hash": "h", "inputs": {"x": "4 rows, c"}, **facts}
    return identity_of(parse_job(merged(BASE, changes or {}), AugmentJob).model_dump(mode="json"), **facts)


@pytest.mark.parametrize("key", SPEED)
def test_a_key_that_only_changes_speed_does_not_identify_a_run(key):
    assert parse_job(merged(BASE, {key: SPEED[key]}), AugmentJob) != parse_job(BASE, AugmentJob)
    assert fingerprint(identity({key: SPEED[key]})) == fingerprint(identity())


@pytest.mark.parametrize("key", IDENTITY)
def test_a_key_that_can_change_text_or_layout_identifies_a_run(key):
    changed = identity({key: IDENTITY[key]})
    assert fingerprint(changed) != fingerprint(identity())
    changes = difference(identity(), changed)
    assert changes and all(change.startswith(key) for change in changes)


def test_every_key_of_a_job_is_one_or_the_other():
    def keys(job, prefix=""):
        for key, value in job.items():
            if isinstance(value, dict) and value:
                yield from keys(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    tried = {*SPEED, *IDENTITY}
    left = [key for key in keys(parse_job(BASE, AugmentJob).model_dump()) if key not in tried]
    assert left == ["input.dataset", "input.config", "engine"]


def test_the_dataset_and_its_configuration_identify_a_run():
    one = {**BASE, "input": {"dataset": "d"}}
    jobs = [one, {**BASE, "input": {"dataset": "e"}}, {**BASE, "input": {"dataset": "d", "config": "c"}}]
    assert len({fingerprint(identity_of(parse_job(job, AugmentJob).model_dump(mode="json"))) for job in jobs}) == 3


def test_prompt_and_input_content_identify_a_run():
    base = fingerprint(identity())
    assert fingerprint(identity(prompt_hash="other")) != base
    assert fingerprint(identity(inputs={"x": "4 rows, other"})) != base


def test_the_order_of_keys_does_not_matter():
    one = identity({"engine.max_model_len": 5, "engine.seed": 6})
    other = identity({"engine.seed": 6, "engine.max_model_len": 5})
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(dict(reversed(one.items()))) == fingerprint(one)


def test_difference_names_what_was_added_changed_and_removed():
    assert difference({"a": 1, "b": "x", "c": None}, {"a": 2, "b": "x", "d": [1]}) == [
        "a: 1 -> 2", "c: null -> (absent)", "d: (absent) -> [1]",
    ]  # fmt: skip


# New runs and resumed ones


def test_a_new_run_is_on_disk(plan, tmp_path):
    run = plan()
    assert ShardStore(str(tmp_path / "run")).read_run() == run
    assert (run.rows, run.segments, run.samples, run.rows_per_shard) == (4, [4], 1, 2)
    assert [(source.source, source.rows) for source in run.inputs] == [(str(tmp_path / "in" / "a.jsonl"), 4)]
    assert run.fingerprint == fingerprint(run.identity)
    assert {"python", "kindling", "ray", "pyarrow"} <= set(run.versions)


def test_storage_options_are_not_written_down(plan, tmp_path):
    run = plan(**{"input.storage_options": {"auto_mkdir": False}})
    assert run.job["input"]["storage_options"] == ["auto_mkdir"]
    secret = "hunter2-do-not-write"
    job = parse_job(
        merged(run.job, {"input.storage_options": {"key": secret}, "output.path": str(tmp_path / "second")}), AugmentJob
    )
    store = ShardStore(job.output.path)
    plan_run(store, job, make_recipes(job), run.inputs, extend=False)
    assert secret not in (tmp_path / "second" / "run.json").read_text()


def test_the_same_job_resumes(plan):
    first = plan()
    again = plan(**{"cluster.replicas": 3, "metrics.port": 0, "engine.max_num_seqs": 7, "name": "renamed"})
    assert (again.fingerprint, again.created_at, again.segments) == (first.fingerprint, first.created_at, [4])
    assert again.job["cluster"]["replicas"] == 3


def test_a_resumed_run_keeps_what_its_first_start_found_out(plan, tmp_path):
    store = ShardStore(str(tmp_path / "run"))
    found = plan().model_copy(update={"model_revision": "r1", "created_at": "2001-01-01T00:00:00+00:00"})
    store.write_run(found)
    again = plan()
    assert (again.model_revision, again.created_at) == ("r1", found.created_at)


def commit(store, run, retry=0):
    """Commits the first shard of a run, or a retry of its rows."""
    facts = manifest(end=2, accepted=2).model_copy(update={"fingerprint": run.fingerprint, "retry": retry})
    store.commit(facts, table(batch(0, 1)))


def test_a_lost_record_is_made_again_by_the_job_that_wrote_the_shards(plan, tmp_path):
    run, store = plan(), ShardStore(str(tmp_path / "run"))
    commit(store, run)
    record = Path(store.path("run.json"))
    record.write_text("{")
    assert "run the same job again, which makes it anew" in refused(plan).remedy
    record.unlink()
    assert "it belongs to another run" in refused(lambda: plan(seed=7)).cause
    assert not record.exists()
    made = plan()
    assert made == run.model_copy(update={"created_at": made.created_at}) == store.read_run()
    assert read_index(store, made).committed == {0}
    commit(store, run, retry=1)
    record.unlink()
    assert "rows of it were retried" in refused(plan).cause


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampling.temperature": 0.5}, "sampling.temperature: 1.0 -> 0.5"),
        ({"seed": 9}, "seed: 0 -> 9"),
        ({"model.revision": "abc"}, "model.revision: null -> abc"),
        ({"engine.max_model_len": 64}, "engine.max_model_len: (absent) -> 64"),
        ({"output.rows_per_shard": 3}, "output.rows_per_shard: 2 -> 3"),
        ({"samples": 2}, "samples: 1 -> 2"),
    ],
)
def test_another_job_is_refused_with_what_differs(plan, tmp_path, changes, words):
    plan()
    before = (tmp_path / "run" / "run.json").read_bytes()
    for extend in (False, True):
        error = refused(lambda extend=extend: plan(extend, **changes))
        assert f"\n    {words}" in error.cause
        assert "--extend" not in error.remedy
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_changed_input_is_refused(plan, tmp_path):
    plan()
    write_texts(tmp_path / "in" / "a.jsonl", "a0", "a1", "a2", "other")
    error = refused(plan)
    assert error.key == "output.path"
    assert f"inputs.{tmp_path}/in/a.jsonl: 4 rows" in error.cause


def test_added_rows_without_extend_are_refused_with_a_hint(plan, tmp_path):
    plan()
    write_texts(tmp_path / "in" / "b.jsonl", "b0")
    assert "--extend" in refused(plan).remedy


@pytest.mark.parametrize("extend", [False, True])
def test_a_folder_with_something_else_is_refused(plan, tmp_path, extend):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    error = refused(lambda: plan(extend))
    assert (error.key, error.value) == ("output.path", str(tmp_path / "run"))
    assert "no run.json" in error.cause
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]


def test_an_empty_folder_is_taken(plan, tmp_path):
    (tmp_path / "run").mkdir()
    assert plan().rows == 4


def test_a_file_in_place_of_the_folder_is_refused(plan, tmp_path):
    (tmp_path / "run").write_text("a file")
    assert refused(plan).key == "output.path"


# --extend


def test_extend_takes_a_new_file_at_the_end(plan, tmp_path):
    first = plan()
    write_texts(tmp_path / "in" / "b.jsonl", "b0", "b1", "b2")
    second = plan(extend=True)
    assert second.segments == [4, 7]
    assert second.earlier_fingerprints == [first.fingerprint]
    assert second.fingerprint != first.fingerprint
    assert list(second.shard_ranges())[:2] == list(first.shard_ranges())
    write_texts(tmp_path / "in" / "c.jsonl", "c0")
    third = plan(extend=True)
    assert third.segments == [4, 7, 8]
    assert third.earlier_fingerprints == [first.fingerprint, second.fingerprint]
    assert third.created_at == first.created_at


def test_an_extended_run_resumes_with_and_without_extend(plan, tmp_path):
    plan()
    write_texts(tmp_path / "in" / "b.jsonl", "b0")
    extended = plan(extend=True)
    for extend in (False, True):
        again = plan(extend)
        assert (again.segments, again.earlier_fingerprints) == ([4, 5], extended.earlier_fingerprints)
        assert again.fingerprint == extended.fingerprint


def test_extend_takes_a_raised_limit(plan):
    assert plan(**{"input.limit": 2}).segments == [2]
    assert plan(extend=True, **{"input.limit": 3}).segments == [2, 3]
    assert plan(extend=True).segments == [2, 3, 4]


def test_extend_takes_a_raised_limit_into_a_new_file(plan, tmp_path):
    plan(**{"input.limit": 3})
    write_texts(tmp_path / "in" / "b.jsonl", "b0", "b1")
    run = plan(extend=True, **{"input.limit": 5})
    assert run.segments == [3, 5]
    assert [source.rows for source in run.inputs] == [4, 1]


def test_extend_takes_a_longer_list_of_paths(plan, tmp_path):
    one = str(tmp_path / "in" / "a.jsonl")
    two = str(write_texts(tmp_path / "b.jsonl", "b0"))
    plan(**{"input.path": [one]})
    assert plan(extend=True, **{"input.path": [one, two]}).segments == [4, 5]


def test_extend_without_anything_new_changes_nothing(plan):
    first = plan()
    again = plan(extend=True)
    assert (again.segments, again.fingerprint, again.earlier_fingerprints) == ([4], first.fingerprint, [])


def test_extend_of_a_run_that_is_not_there_starts_one(plan):
    assert plan(extend=True).segments == [4]


def spoil_content(folder):
    write_texts(folder / "a.jsonl", "other", "a1", "a2", "a3")


def spoil_by_growth(folder):
    write_texts(folder / "a.jsonl", "a0", "a1", "a2", "a3", "a4")


def spoil_by_loss(folder):
    (folder / "a.jsonl").rename(folder / "z.jsonl")


def spoil_by_a_file_before(folder):
    write_texts(folder / "Z.jsonl", "z0")


@pytest.mark.parametrize("spoil", [spoil_content, spoil_by_growth, spoil_by_loss, spoil_by_a_file_before])
def test_extend_refuses_anything_but_rows_at_the_end(plan, tmp_path, spoil):
    plan()
    before = (tmp_path / "run" / "run.json").read_bytes()
    spoil(tmp_path / "in")
    error = refused(lambda: plan(extend=True))
    assert error.key == "--extend"
    assert f"{tmp_path}/in/a.jsonl: changed (rows added inside it too), moved or gone" in error.cause
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_extend_refuses_a_lowered_limit(plan):
    plan(**{"input.limit": 3})
    error = refused(lambda: plan(extend=True, **{"input.limit": 2}))
    assert "a.jsonl: 3 -> 2 rows" in error.cause


# Where a Ray job would lose its output


@pytest.fixture
def uploaded(tmp_path, monkeypatch):
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_relative_output_path_in_an_uploaded_folder_is_refused(plan, uploaded):
    with pytest.raises(JobError) as raised:
        plan(**{"output.path": "runs/mine"})
    assert (raised.value.key, raised.value.value) == ("output.path", "runs/mine")
    assert "absolute path" in raised.value.remedy
    assert os.listdir(uploaded) == []


def test_a_folder_below_an_uploaded_one_is_refused_too(plan, uploaded, monkeypatch):
    (uploaded / "below").mkdir()
    monkeypatch.chdir(uploaded / "below")
    with pytest.raises(JobError):
        plan(**{"output.path": "../runs"})


@pytest.mark.parametrize("form", ["{}/shared", "file://{}/shared", "memory://plan-test{}"])
def test_other_output_paths_are_taken_from_an_uploaded_folder(plan, uploaded, tmp_path, form):
    assert plan(**{"output.path": form.format(tmp_path)}).rows == 4


def test_an_output_path_in_the_home_folder_is_taken_from_an_uploaded_folder(plan, uploaded, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    plan(**{"output.path": "~/runs"})
    assert (tmp_path / "home" / "runs" / "run.json").is_file()


def test_a_relative_output_path_is_taken_anywhere_else(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan(**{"output.path": "runs/mine"})
    assert (tmp_path / "runs" / "mine" / "run.json").is_file()

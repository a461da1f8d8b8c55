"""Whose an output folder is; and runs of version 0.2.0, resumed, verified and read by this one."""

import errno
import json
import os
import shutil
from pathlib import Path

import polars
import pytest
from typer.testing import CliRunner

from pipelines import augment, compose, evaluate, export, label, status, train, verify
from pipelines.cli.main import app
from pipelines.run_folder import RECORD_NAMES, claimed, has_record, kind_of, refuse_other_job, write_errors
from schemas.errors import RunError, StoppedError
from schemas.rows import ACCEPTED, REJECTED
from services.storage.lease import hold_lease
from services.storage.store import ShardStore

OLD_RUNS = Path(__file__).parent / "old_runs"


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    """A copy of the runs, as the working directory."""
    folder = tmp_path / "kindling"
    shutil.copytree(OLD_RUNS, folder)
    for path in ("label/run.json", "train-stopped/work/0-sft/checkpoint-5/trainer_state.json"):
        (folder / path).write_text((folder / path).read_text().replace("/srv/kindling", str(folder)))
    monkeypatch.chdir(folder)
    return folder


def files_of(folder):
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*.parquet")}


# Whose a folder is


def record_text(kind):
    return json.dumps({"kind": "label"} if kind == "label" else {"identity": {}})


@pytest.mark.parametrize("kind", RECORD_NAMES)
@pytest.mark.parametrize("other", RECORD_NAMES)
def test_a_folder_belongs_to_jobs_of_one_kind(tmp_path, kind, other):
    (tmp_path / RECORD_NAMES[other]).write_text(record_text(other))
    store = ShardStore(str(tmp_path))
    assert kind_of(store) == other
    if kind == other:
        assert has_record(store, kind)
        return
    with pytest.raises(RunError) as raised:
        has_record(store, kind)
    assert f"kindling {other}" in raised.value.cause and raised.value.key == "output.path"


@pytest.mark.parametrize("kind", RECORD_NAMES)
def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path, kind):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        with pytest.raises(RunError) as raised, claimed(ShardStore(str(tmp_path / name)), kind):
            pass
        assert RECORD_NAMES[kind] in raised.value.cause
    assert os.listdir(tmp_path / "folder") == ["thesis.tex"]


@pytest.mark.parametrize(("kind", "other"), [("train", "augment"), ("augment", "train"), ("train", "evaluate")])
def test_a_job_of_another_kind_that_has_not_written_its_record_yet_is_in_the_way(tmp_path, kind, other):
    store = ShardStore(str(tmp_path))
    with claimed(store, other), pytest.raises(RunError), claimed(store, kind):
        pass


@pytest.mark.parametrize("name", ["run.lock", "train.lock", ".train.json.7.tmp"])
def test_what_is_renamed_to_its_place_at_the_end_needs_a_bare_folder_at_the_start(tmp_path, name):
    (tmp_path / name).touch()
    for kind in ("train", "compose"):
        with pytest.raises(RunError):
            has_record(ShardStore(str(tmp_path)), kind, must_be_bare=True)


@pytest.mark.parametrize("kind", RECORD_NAMES)
def test_a_new_folder_is_claimed_by_one_process_at_a_time(tmp_path, kind):
    store = ShardStore(str(tmp_path / "new"))
    assert kind_of(store) is None and not has_record(store, kind)
    with claimed(store, kind), pytest.raises(RunError) as raised, claimed(store, kind):
        pass
    assert f"process {os.getpid()}" in raised.value.cause
    assert not has_record(store, kind)  # a lock alone is nothing
    with claimed(store, kind):
        pass
    # The folder of a finished training is a checkpoint: a lock that changed would change its revision.
    assert kind != "train" or (tmp_path / "new" / "train.lock").read_bytes() == b""


@pytest.mark.parametrize(("resumable", "error"), [(False, RunError), (True, StoppedError)])
def test_a_folder_that_cannot_be_made_is_one_error(tmp_path, resumable, error):
    (tmp_path / "file").touch()
    with pytest.raises(error), claimed(ShardStore(str(tmp_path / "file" / "run")), "label", resumable):
        pass


def test_a_record_that_cannot_be_read_is_refused_before_anything_is_removed(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 99}')
    (tmp_path / ".run.json.7.tmp").touch()
    with pytest.raises(RunError), claimed(ShardStore(str(tmp_path)), "augment"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".run.json.7.tmp", "run.json"]


def test_another_job_is_told_by_the_keys_that_differ():
    refuse_other_job("runs/a", {"seed": 0, "b": [1]}, {"b": [1], "seed": 0.0})
    refuse_other_job("runs/a", {"b": [1]}, {"b": (1,)})
    with pytest.raises(RunError) as raised:
        refuse_other_job("runs/a", {"seed": 0}, {"seed": 1})
    assert raised.value.cause.endswith(":\n    seed: 0 -> 1") and "output.path" in str(raised.value)


@pytest.mark.parametrize(("resumable", "number", "kind"), [(False, 13, RunError), (True, 13, StoppedError)])
def test_a_place_that_cannot_be_written_is_one_error(resumable, number, kind):
    with pytest.raises(kind) as raised, write_errors("runs/a", resumable=resumable):
        raise OSError(number, "Permission denied")
    assert raised.value.cause == "cannot be written: Permission denied" and raised.value.value == "runs/a"


def test_a_full_disk_is_no_fault_of_the_call():
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(StoppedError, match="free space, then run the same command"), write_errors("runs/a"):
            raise OSError(number, os.strerror(number))


# Runs of version 0.2.0


def test_an_old_run_is_verified_read_and_found_complete(old_runs):
    before = files_of("augment")
    assert verify("augment").faults == []
    assert status("augment").complete and status("augment").rows[ACCEPTED] == 12
    assert augment("augment.yaml").generated == 0
    exported = export("augment", "dataset")
    assert exported.rows == 12 and exported.complete
    assert polars.read_parquet("augment/data/*.parquet")["row_index"].to_list() == list(range(12))
    assert files_of("augment") == before


def test_verify_takes_no_unfinished_shard_for_damage(old_runs):
    shown = CliRunner().invoke(app, ["verify", "augment-stopped"])
    assert shown.exit_code == 1 and shown.output.splitlines() == [
        "unfinished: 8 of 12 rows are in no committed shard yet; run its job again: it goes on",
        "augment-stopped: not complete; 1 shard, 4 accepted",
    ]
    with pytest.raises(StoppedError), hold_lease(ShardStore("augment-stopped"), command="kindling augment job.yaml"):
        raise StoppedError("", None, "by a signal", "resume")
    Path("augment-stopped/data/part-00000.parquet").write_bytes(b"PAR1")
    verdict = verify("augment-stopped", repair=True)
    assert verdict.unfinished == "8 of 12 rows are in no committed shard yet; to go on: kindling augment job.yaml"
    assert [fault.is_unfinished for fault in verdict.faults] == [False, True, True]
    assert verdict.moved == ["data/part-00000.parquet"] and verdict.damage == verdict.faults[:1]
    Path("label/data/part-00001.parquet").unlink()
    with hold_lease(ShardStore("label")):
        assert verify("label").unfinished == "1 of 3 shards are not labelled yet; its job runs"


def test_the_export_of_an_unfinished_run_says_what_is_left_out_and_how_to_go_on(old_runs):
    shown = CliRunner().invoke(app, ["export", "augment-stopped", "--to", "rows.jsonl", "--columns", "text"])
    assert shown.exit_code == 0 and shown.output.splitlines()[0] == "4 rows in 1 file (the run is not complete)"
    assert shown.output.splitlines()[-2:] == [
        "left out: 8 finished rows, in shards that are not committed yet",
        "go on     run the same `kindling augment` again: it resumes",
    ]


def test_an_old_run_that_was_killed_is_resumed(old_runs, ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    before = files_of("augment-stopped")
    found = status("augment-stopped")
    assert not found.complete and sum(found.rows.values()) > 4
    summary = augment("augment-stopped.yaml")
    assert summary.generated == 12 - sum(found.rows.values())
    assert verify("augment-stopped").faults == [] and status("augment-stopped").complete
    assert before.items() <= files_of("augment-stopped").items()
    texts = [polars.read_parquet(f"{run}/data/*.parquet")["text"].to_list() for run in ("augment", "augment-stopped")]
    assert texts[0] == texts[1]
    assert status("augment-stopped").rows[REJECTED] == 0


def test_an_old_label_run_is_verified_and_found_complete(old_runs):
    before = files_of("label")
    assert verify("label").faults == []
    assert status("label").complete
    assert label("label.yaml").counts["kept"] == 45
    assert files_of("label") == before


@pytest.mark.slow
def test_an_old_label_run_goes_on(old_runs, ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    Path("label/data/part-00001.parquet").rename("kept.parquet")
    before = files_of("label")
    assert not status("label").complete
    assert label("label.yaml").counts["kept"] == 45
    assert verify("label").faults == [] and before.items() <= files_of("label").items()
    made, old = (polars.read_parquet(path) for path in ("label/data/part-00001.parquet", "kept.parquet"))
    assert made["context"].to_list() == old["context"].to_list()


def test_an_old_corpus_is_found(old_runs):
    before = files_of("compose")
    assert compose("compose.yaml").documents == 13
    assert files_of("compose") == before


def test_an_old_training_is_found_and_one_that_was_killed_goes_on(old_runs):
    whole = train("train.yaml")
    assert status("train").complete
    assert status("train-stopped").step == 5
    resumed = train("train-stopped.yaml")
    assert status("train-stopped").complete
    assert resumed.stages[0].dev_loss == pytest.approx(whole.stages[0].dev_loss, abs=1e-4)


def test_an_old_classifier_is_found(old_runs):
    assert train("classifier.yaml").rows == {"train": 12, "dev": 12, "test": 12}
    assert status("classifier").complete


def test_an_old_evaluation_is_found(old_runs):
    before = files_of("evaluate")
    assert status("evaluate").complete
    report = evaluate("evaluate.yaml")
    assert [model.name for model in report.blimp.models] == ["one"] and report.failures == {}
    assert files_of("evaluate") == before

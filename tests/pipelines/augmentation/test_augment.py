"""The main job on the fake engine: real Ray, real files, the command line and the Python call."""

import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import polars
import psutil
import pyarrow.parquet as pq
import pytest

from pipelines import augment, export, status, verify
from pipelines.recipes.babylm import BabylmStory
from schemas.errors import EngineError, JobError, RunError, StoppedError
from schemas.rows import ROW_SCHEMA, row_seed
from services.engines.fake_engine import fake_text
from services.observability.endpoint_reader import read_endpoint
from services.storage.row_log import open_row_log
from services.storage.shard_index import read_index
from services.storage.store import ShardStore
from tests.support.files import ROOT, write_job, write_jsonl
from tests.support.processes import cli_env, finished_rows, wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")


def rows_of(run, folder="data"):
    files = sorted(Path(run, folder).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_every_row_becomes_the_row_it_must_be(fake_job, caplog):
    with caplog.at_level("INFO", "kindling"):
        summary = augment({**fake_job, "samples": 2, "seed": 7})
    assert caplog.messages[-1] == "stopping the engines"
    assert summary.rows == {"accepted": 80, "rejected": 0, "error": 0} and summary.shards == 5
    rows = rows_of(summary.run)
    source = fake_job["input"]["path"]
    recipe = BabylmStory("p3")
    assert [(row["row_index"], row["sample"]) for row in rows] == [(i, s) for i in range(40) for s in range(2)]
    for row in rows:
        seed = row_seed(7, source, row["row_index"], row["sample"])
        values = {"context": f"Sentence number {row['row_index']} is here.", "emotion": "joy"}
        text, finish_reason = fake_text(recipe.render(values, seed).messages, seed, 32)
        assert (row["text"], row["finish_reason"], row["seed"]) == (text, finish_reason, seed)
        assert json.loads(row["inputs"]) == values
        assert (row["source"], row["emotion"], row["emotions"]) == (source, "joy", ["joy"])
        assert row["prompt_id"] == "babylm_story/p3" and row["prompt_hash"] == recipe.prompt_hash
        assert row["attempts"] == 1 and row["output_tokens"] == len(text.split())
    assert verify(summary.run).faults == []
    assert not list(Path(summary.run, "rejected").glob("*")) and not list(Path(summary.run, "log").glob("*"))


def test_shards_load_with_datasets_polars_and_pandas(fake_job, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"context": f"S {i}", "emotion": "joy" if i > 8 else None} for i in range(28)]  # none of the first shard
    write_jsonl(fake_job["input"]["path"], rows)
    run = augment(fake_job).run
    store = ShardStore(run)
    assert f"data files {read_index(store, store.read_run()).digest()}\n" in Path(run, "README.md").read_text()
    for folder in (run, export(run, str(tmp_path / "p")).to, export(run, str(tmp_path / "j"), "jsonl").to):
        loaded = datasets.load_dataset(folder, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.num_rows == 19 and loaded[0]["emotion"] == "joy"
        assert set(loaded.column_names) == set(ROW_SCHEMA.names)
    frame = polars.read_parquet(f"{run}/data/*.parquet")
    assert frame.height == 19 and frame.null_count().row(0) == (0,) * len(ROW_SCHEMA)
    assert len(pq.read_table(f"{run}/data").to_pandas()) == 19
    assert pq.read_schema(f"{run}/data/part-00000.parquet").equals(ROW_SCHEMA)


def test_bad_rows_go_to_errors_and_the_rest_is_generated(fake_job):
    long = "word " * 3000
    lines = [
        json.dumps({"context": "A good one.", "emotion": ["joy", "love"]}),
        json.dumps({"context": None, "emotion": "joy"}),
        json.dumps({"context": 7, "emotion": "joy"}),
        json.dumps({"context": long, "emotion": "joy"}),
        json.dumps({"context": "half a pair \ud800", "emotion": "joy"}),
        json.dumps({"context": "No such label.", "emotion": "glee"}),
        "{broken",
        json.dumps({"context": "Another good one.", "emotion": "love"}),
    ]
    Path(fake_job["input"]["path"]).write_text("\n".join(lines))
    summary = augment(fake_job)
    assert summary.rows == {"accepted": 2, "rejected": 0, "error": 6}
    reasons = {row["row_index"]: row["reason"] for row in rows_of(summary.run, "errors")}
    for index, words in {1: "null", 2: "int, not text", 3: "at most 2048", 4: "Unicode", 5: "glee", 6: "JSON"}.items():
        assert words in reasons[index]
    good = rows_of(summary.run)
    assert [row["row_index"] for row in good] == [0, 7] and good[0]["emotions"] == ["joy", "love"]
    assert verify(summary.run).faults == []


def test_rows_that_a_recipe_refuses_are_rejected_and_counted_by_rule(fake_job):
    birds = [f"Name bird number {i} of the forest." for i in range(12)]
    birds[8], birds[11] = "name BIRD number 2 of  the forest", birds[3]  # the second of a row that is refused
    rows = [{"instruction": bird, "input": "", "output": f"Bird {i}."} for i, bird in enumerate(birds)]
    rows[3]["output"] = "<nooutput>"
    for i in (5, 9):
        rows[i]["input"] = "https://example.org/bird"
    rows[7]["instruction"] = None
    write_jsonl(fake_job["input"]["path"], rows)
    source = fake_job["input"]["path"]
    summary = augment({**fake_job, "recipe": "alpaca_rewrite"})
    assert summary.rows == {"accepted": 7, "rejected": 4, "error": 1}
    rejected = {
        row["row_index"]: (row["reason"], row["text"], row["attempts"]) for row in rows_of(summary.run, "rejected")
    }
    like = f"near_duplicate of row 2 of {source}"
    assert rejected == {3: ("nooutput", "", 0), 5: ("url", "", 0), 8: (like, "", 0), 9: ("url", "", 0)}
    assert status(summary.run).rejects == {"url": 2, "near_duplicate": 1, "nooutput": 1}
    assert len({row["emotion"] for row in rows_of(summary.run)}) > 1  # drawn
    assert verify(summary.run).faults == []


@pytest.mark.slow
def test_replicas_on_disjoint_cores_share_the_rows(fake_job):
    fake_job["cluster"]["replicas"] = 3
    # Long enough for all to come up, also on a busy machine: one alone would take 40 s.
    fake_job["engine"] = {"max_num_seqs": 2, "start_seconds": 2.0}
    run = ShardStore(augment(fake_job).run).read_run()
    cores = [core for replica in run.replicas for core in replica["cores"]]
    assert len(run.replicas) == 3 and len(set(cores)) >= min(3, psutil.cpu_count())


def test_an_engine_that_dies_is_replaced(fake_job):
    fake_job["engine"]["die_after_requests"] = 12
    fake_job["engine"]["step_seconds"] = 0.01
    summary = augment(fake_job)
    assert sum(summary.rows.values()) == 40 and summary.rows["accepted"] > 20
    assert len(ShardStore(summary.run).read_run().replicas) > 1
    assert verify(summary.run).faults == []


@pytest.mark.parametrize("seeds", ["run", "none"])
def test_without_seeds_of_rows_no_engine_repeats_the_texts_of_another_and_a_resume_goes_on(fake_job, seeds):
    # All outputs have the same prompt, so an engine with the random numbers of another one would write its texts.
    fake_job |= {"seeds": seeds, "samples": 40, "input": {**fake_job["input"], "limit": 1}}
    fake_job["output"]["rows_per_shard"] = 1
    fake_job["budget"] = {"tokens": 500}
    with pytest.raises(StoppedError, match="budget"):
        augment(fake_job)
    del fake_job["budget"]
    with pytest.raises(RunError, match=f"seeds: {seeds} -> \\(absent\\)"):
        augment({**fake_job, "seeds": "row"})
    summary = augment(fake_job)
    rows = rows_of(summary.run)
    assert len(rows) == 40 == len({row["text"] for row in rows})
    assert [row["seed"] for row in rows] == [row_seed(0, fake_job["input"]["path"], 0, n) for n in range(40)]
    assert verify(summary.run).faults == []
    assert "| seed | 0 for prompts; sampling " in Path(summary.run, "README.md").read_text()


def test_a_second_call_has_nothing_to_do(fake_job):
    first = augment(fake_job)
    before = {path: path.stat().st_mtime_ns for path in Path(first.run, "data").iterdir()}
    again = augment(fake_job)
    assert again.generated == 0 and again.rows == first.rows
    assert before == {path: path.stat().st_mtime_ns for path in Path(first.run, "data").iterdir()}


def test_another_job_in_the_same_folder_is_refused_with_the_difference(fake_job):
    augment(fake_job)
    fake_job["sampling"]["temperature"] = 0.5
    with pytest.raises(RunError, match=r"sampling\.temperature: 1\.0 -> 0\.5"):
        augment(fake_job)


def test_a_log_left_by_a_crash_after_the_commit_counts_no_row_twice(fake_job):
    fake_job["input"]["limit"] = 16
    run = augment(fake_job).run
    log = open_row_log(ShardStore(run))
    log.append(1, pq.read_table(f"{run}/data/part-00001.parquet").to_batches()[0])
    log.close()
    assert sum(status(run).rows.values()) == 16
    fake_job["input"]["limit"] = 24
    assert augment(fake_job, extend=True).rows["accepted"] == 24
    assert open_row_log(ShardStore(run)).shards() == [] and verify(run).faults == []


def test_a_misspelt_model_does_not_spoil_its_folder(fake_job):
    with pytest.raises(EngineError):
        augment({**fake_job, "model": {"id": "./no-model"}, "engine": {}})
    assert augment(fake_job).rows["accepted"] == 40


def test_a_replica_that_keeps_dying_ends_the_job_with_its_cause(fake_job):
    fake_job["engine"]["die_at_start"] = True
    with pytest.raises(EngineError, match="replica 0 died 3 times before it served a row: the fake engine was told"):
        augment(fake_job)


def test_rows_added_at_the_end_are_taken_with_extend(fake_job, tmp_path):
    fake_job["input"]["limit"] = 20
    first = augment(fake_job)
    before = {path.name: path.read_bytes() for path in Path(first.run, "data").iterdir()}
    del fake_job["input"]["limit"]
    with pytest.raises(RunError, match="--extend"):
        augment(fake_job)
    assert augment(fake_job, extend=True).rows["accepted"] == 40
    after = {path.name: path.read_bytes() for path in Path(first.run, "data").iterdir()}
    assert before.items() <= after.items()
    assert verify(first.run).faults == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": {"path": "nowhere.parquet"}}, JobError, "no such file"),
        ({"model": {"id": "./no-model"}}, EngineError, "no such folder"),
        ({"model": {"id": "nobody/no-such-model"}}, EngineError, "hub"),
        ({"engine": {"max_num_sqs": 3}}, EngineError, "did you mean `engine.max_num_seqs`"),
        ({"cluster": {"address": "127.0.0.1:1"}}, None, ""),
    ],
)
def test_a_wrong_call_is_one_clear_error(fake_job, change, error, words):
    if error is None:
        assert augment({**fake_job, **change}).rows["accepted"] == 40  # an open connection is used as it is
        return
    with pytest.raises(error, match=words) as caught:
        augment({**fake_job, **change})
    assert caught.value.remedy and len(str(caught.value).splitlines()) < 20


def test_errors_on_the_command_line_have_no_traceback(fake_job, tmp_path, kindling):
    job = write_job(tmp_path / "job.yaml", {**fake_job, "sampling": {"temprature": 1}})
    done = kindling("augment", job)
    assert done.returncode == 2 and "did you mean `sampling.temperature`" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 10
    done = kindling("verify", tmp_path / "nothing")
    assert done.returncode == 2 and "no run.json" in done.stderr


def test_a_port_in_use_is_replaced_by_a_free_one(fake_job):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fake_job["metrics"]["port"] = taken.getsockname()[1]
        run = ShardStore(augment(fake_job).run).read_run()
    assert run.metrics.startswith("127.0.0.1:") and run.metrics != f"127.0.0.1:{fake_job['metrics']['port']}"


def start(job, tmp_path, address, **env):
    path = write_job(tmp_path / "job.yaml", job)
    command = [sys.executable, "-m", "pipelines", "augment", path, "--json"]
    return subprocess.Popen(
        command, cwd=tmp_path, env=cli_env(RAY_ADDRESS=address, **env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_a_stop_signal_keeps_what_is_finished_and_exits_75(fake_job, tmp_path, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.02}
    fake_job["samples"] = 2
    run = fake_job["output"]["path"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before = finished_rows(run)
        process = start(fake_job, tmp_path, ray_cluster)
        wait_for(lambda before=before: finished_rows(run) > before + 3)
        if number == signal.SIGHUP:  # the reader of the log goes with its terminal
            process.stderr.close()
            process.send_signal(number)
            process.stdout.read()
            assert process.wait(timeout=60) == 75
            break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 75, errors
        assert "resume with: kindling augment" in errors and "Traceback" not in errors
    kept = finished_rows(run)
    assert 12 <= kept < 80
    process = start(fake_job, tmp_path, ray_cluster)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output)["generated"] == 80 - kept
    assert verify(run).faults == []


def test_a_signal_before_any_row_is_served_exits_75_too(fake_job, tmp_path, ray_cluster):
    process = start(fake_job, tmp_path, ray_cluster)
    wait_for(lambda: Path(fake_job["output"]["path"], "run.json").exists())
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "resume with: kindling augment" in errors and "Traceback" not in errors


def test_kill_9_again_and_again_loses_no_row_and_doubles_none(fake_job, tmp_path, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "step_seconds": 0.01}
    fake_job["samples"] = 2
    run = fake_job["output"]["path"]
    kills = 0
    for _ in range(3):
        before = finished_rows(run)
        process = start(fake_job, tmp_path, ray_cluster)
        wait_for(lambda before=before, process=process: finished_rows(run) > before + 5 or process.poll() is not None)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
        assert finished_rows(run) >= before + 5
        if status(run).complete:
            break
    assert kills >= 2
    process = start(fake_job, tmp_path, ray_cluster)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = Counter((row["row_index"], row["sample"]) for folder in ("data", "errors") for row in rows_of(run, folder))
    assert found == Counter((i, s) for i in range(40) for s in range(2))
    assert verify(run).faults == []


def test_metrics_equal_the_shards_while_the_job_runs(fake_job, tmp_path, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 2, "step_seconds": 0.02}
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path, ray_cluster)
    wait_for(lambda: finished_rows(run) > 0)
    record = ShardStore(run).read_run()

    def value(name, **labels):
        return read_endpoint(record.metrics, record.start_id).value(f"kindling_{name}", run="fake", **labels)

    wait_for(lambda: value("rows_total", state="accepted") > 4)
    assert value("rows_total", state="accepted") <= finished_rows(run)
    assert value("replicas", state="serving") == 1
    assert 0 < value("progress_ratio") < 1
    assert value("requests_in_flight") >= 1
    process.kill()
    process.communicate()


def test_a_metrics_host_of_another_machine_is_refused(fake_job):
    fake_job["metrics"]["host"] = "203.0.113.7"  # an address reserved for documentation
    with pytest.raises(JobError, match="no port can be opened there"):
        augment(fake_job)


def test_a_card_that_cannot_be_written_is_one_clear_error(fake_job):
    card = Path(augment(fake_job).run, "README.md")
    card.unlink()
    card.mkdir()
    with pytest.raises(StoppedError, match="cannot be written"):
        augment(fake_job)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a size-limited file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_stops_the_job_and_loses_nothing(fake_job, tmp_path, small_disk, ray_cluster):
    fake_job["output"] = {"path": str(small_disk / "run"), "rows_per_shard": 4}
    write_jsonl(fake_job["input"]["path"], [{"context": f"Row {i}.", "emotion": "joy"} for i in range(200)])
    run = fake_job["output"]["path"]
    process = start(fake_job, tmp_path, ray_cluster)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and "No space left" in errors and "free space" in errors, errors
    assert "Traceback" not in errors
    kept = finished_rows(run)
    with Path(small_disk, "rest").open("wb", buffering=0) as rest, suppress(OSError):
        while True:
            rest.write(bytes(512))
    process = start(fake_job, tmp_path, ray_cluster)  # the disk is still full
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and "free space" in errors, errors
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    process = start(fake_job, tmp_path, ray_cluster)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert kept > 0 and json.loads(output)["generated"] <= 200 - kept
    assert verify(run).faults == []


def test_a_read_only_folder_is_refused_before_anything_is_generated(fake_job, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    fake_job["output"]["path"] = str(small_disk / "run")
    with pytest.raises(RunError, match="cannot be written"):
        augment(fake_job)


def test_verify_finds_what_is_wrong(fake_job, tmp_path):
    lines = [{"context": f"S {i}", "emotion": "joy" if i % 8 else "glee"} for i in range(24)]
    write_jsonl(fake_job["input"]["path"], lines)
    run = Path(augment(fake_job).run)
    assert verify(str(run)).faults == []

    def faults():
        return {fault.path: fault.cause for fault in verify(str(run)).faults}

    sibling = run / "errors" / "part-00001.parquet"
    whole = sibling.read_bytes()
    sibling.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert "sha256" in faults()["errors/part-00001.parquet"]
    sibling.unlink()
    assert faults()["errors/part-00001.parquet"] == "missing"
    sibling.write_bytes(whole)

    data = run / "data" / "part-00002.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert "data/part-00002.parquet" in faults()
    data.write_bytes((run / "data" / "part-00000.parquet").read_bytes())
    assert "holds shard 0" in faults()["data/part-00002.parquet"]
    data.unlink()
    (run / "data" / ".part-00002.parquet.77.tmp").write_bytes(whole[:200])
    verdict = verify(str(run))  # as a full disk leaves it: what is left over is no fault
    assert [fault.path for fault in verdict.faults] == ["data/part-00002.parquet"]
    assert "no final state" in verdict.faults[0].cause
    assert verdict.leftovers == ["data/.part-00002.parquet.77.tmp", "errors/part-00002.parquet"]
    data.write_bytes(whole)
    (run / "rejected").mkdir()
    (run / "rejected" / "part-00001.parquet").write_bytes(sibling.read_bytes())
    assert "no shard of this run lists" in faults()["rejected/part-00001.parquet"]


@pytest.mark.slow
def test_several_nodes_each_serve_and_the_output_is_whole(fake_job, tmp_path):
    fake_job["cluster"] = {"replicas": 2, "cpus_per_replica": 1}
    fake_job["engine"] = {"max_num_seqs": 2, "step_seconds": 0.01}
    script = f"""
import json, sys
from ray.cluster_utils import Cluster
import ray
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0, "include_dashboard": False}})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
from pipelines import augment
augment(json.loads({json.dumps(json.dumps(fake_job))!s}))
ray.shutdown()
cluster.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=cli_env(), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = fake_job["output"]["path"]
    assert len({replica["node"] for replica in ShardStore(run).read_run().replicas}) == 2
    assert verify(run).faults == [] and finished_rows(run) == 40

"""What the benchmarks print, and the simulation that `bench scale` believes; whole benches are slow."""

import http.server
import json
import queue
import subprocess
import sys
import threading
from collections import Counter

import pytest

from pipelines.benchmarks.gpu import LIMITS, Shape, summarize, workloads_of, write_checkpoint
from pipelines.benchmarks.report import Goal, conclude, ratio
from pipelines.benchmarks.scale.dry_run import dry_run
from pipelines.benchmarks.scale.resume import resume
from pipelines.benchmarks.scale.simulation import SimulatedPool
from pipelines.benchmarks.throughput import bench as throughput
from pipelines.benchmarks.throughput import metrics_cost
from pipelines.benchmarks.throughput.kept import KeptRuns
from pipelines.benchmarks.throughput.one_at_a_time import KINDLING, SCRAPED, WITHOUT_METRICS, measure_arms
from pipelines.benchmarks.throughput.processor_time import processor_seconds
from pipelines.benchmarks.throughput.workloads import WORKLOADS, p3_openings
from pipelines.benchmarks.train import arm as training_arm
from pipelines.benchmarks.train import bench as training
from schemas.errors import EXIT_USAGE, JobError
from schemas.job import Model
from schemas.rows import WorkRow
from services.engines.fake_engine import LatencyModel
from services.replicas.coordinator import Coordinator
from tests.support.files import ROOT, SHARED_DATA
from tests.support.processes import cli_env
from trainers import language_model

needs_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs ../shared/data")
LATENCY = LatencyModel(max_num_seqs=8, step_seconds=0.01)


def simulated(replicas, rows, driver_seconds_per_row=0.0):
    pool = SimulatedPool(replicas, LATENCY, 40, driver_seconds_per_row)
    most = Counter()
    finished = []

    def sink(batch):
        finished.extend(batch.output_ids)
        most.update({member.number: len(member.rows) for member in pool.members if len(member.rows) > most[0]})

    planned = (WorkRow(number, 0, "s", number, 0, {}) for number in range(rows))
    coordinator = Coordinator(pool, None, planned, rows, sink, lambda: None, lambda member: None)
    assert coordinator.run()
    assert sorted(finished) == list(range(rows))
    return pool


def test_simulated_engines_never_drain():
    pool = simulated(replicas=4, rows=6000)
    assert pool.rows == 6000
    assert pool.ideal_seconds / pool.now > 0.97


def test_a_driver_that_is_too_slow_is_seen_in_the_simulation():
    # 16 replicas finish about 350 rows a second; a driver that takes 10 ms for each bears 100.
    pool = simulated(replicas=16, rows=4000, driver_seconds_per_row=0.01)
    assert 4000 / pool.now == pytest.approx(100, rel=0.05)


def test_a_dry_run_commits_every_row():
    run = dry_run(replicas=2, rows=5000, latency=LatencyModel(max_num_seqs=8), driver_seconds_per_row=0.0)
    assert (run.rows, run.replicas) == (5000, 2) and 0.5 < run.efficiency <= 1 and run.peak_mib > 10


def test_a_resume_finds_the_one_row_that_is_left(tmp_path):
    resumed = resume(30, tmp_path)
    assert resumed.shards == 30 and resumed.indexed_seconds > 0 and resumed.rebuilt_seconds > 0


def test_ratios_are_of_runs_in_the_same_round():
    found = ratio([10, 20, 30], [10, 10, 10])
    assert (found.median, found.low, found.high) == (2, 1, 3)


def test_the_last_line_tells_everything_again(capsys):
    goals = [Goal("fast", 0.99, 0.98), Goal("small", 3.0, 2.0, at_least=False)]
    assert not conclude("throughput", {"rows": 1}, {"p3": {"whole": [1.0]}}, goals)
    printed = capsys.readouterr().out.splitlines()
    document = json.loads(printed[-1])
    assert set(document) == {"bench", "machine", "versions", "settings", "samples", "goals"}
    assert [goal["met"] for goal in document["goals"]] == [True, False]
    assert document["machine"]["cores"] and document["versions"]["python"]
    assert conclude("throughput", {}, {}, goals[:1])


def runs(*seconds):
    return [{"output_tokens": 100, "seconds": each} for each in seconds]


def test_throughput_goals_follow_from_the_samples():
    arms = {
        "whole": runs(1.5, 1.5, 1.5),
        "queue": runs(2, 2, 2),
        "whole+nucleus": runs(1, 1, 1),
        "kindling": runs(1.0, 1.1, 0.9),
    }
    messages = {"whole": runs(0.9, 1, 1), "kindling": runs(1, 1.1, 1)}
    goals = throughput.goals_of({"p3": arms, "messages": messages}, first_row_seconds=[2.0, 4.0, 2.5])
    assert {(goal.name, round(goal.value, 3), goal.met) for goal in goals} == {
        ("p3: kindling / whole+nucleus", 1.0, True),
        ("p3: kindling / queue", 2.0, True),
        ("messages: kindling / whole", 0.909, False),
        ("seconds to the first row on a warm pool", 2.5, True),
    }


def test_a_stopped_bench_goes_on_from_the_runs_that_it_kept(tmp_path):
    path, settings = tmp_path / "kept.jsonl", {"rows": 24}
    kept = KeptRuns(path, settings)
    for run in [("p3", "whole", 0), ("p3", "kindling", 0), ("p3", "kindling", 1)]:
        kept.add(*run, {"seconds": run[2]})
    again = KeptRuns(path, settings)
    assert ("p3", "kindling", 1) in again and ("p3", "whole", 1) not in again
    assert again.samples() == {"p3": {"whole": [{"seconds": 0}], "kindling": [{"seconds": 0}]}}  # whole rounds alone
    with pytest.raises(JobError, match="made with other settings: rows"):
        KeptRuns(path, {"rows": 48})
    path.write_text("[]\n")
    with pytest.raises(JobError, match="does not hold the runs of a bench"):
        KeptRuns(path, settings)
    with pytest.raises(JobError, match="--workloads = p4: there is none of this name"):
        throughput.measure(str(tmp_path), 8, 1, workloads="p3,p4")


def test_processor_time_is_told_by_kind_of_process():
    with processor_seconds() as seconds:
        sum(range(2_000_000))
    assert seconds["driver"] > 0 and seconds["idle"] >= 0 and seconds["others"] >= 0


def test_training_goals_follow_from_the_samples():
    def runs(loss, *seconds):
        return [{"tokens": 100, "seconds": each, "dev_loss": {"bf16": loss, "fp32": 0.0}} for each in seconds]

    samples = {"trl": runs(2.0, 2.0, 2.0, 2.0), "kindling": runs(2.01, 1.0, 1.25, 0.8)}
    goals = training.goals_of(samples)
    assert [(round(goal.value, 3), goal.met) for goal in goals] == [(2.0, True), (1.005, True)]
    assert not all(goal.met for goal in training.goals_of({**samples, "kindling": runs(2.1, 1.0, 1.5, 1.6)}))


def test_the_cost_of_metrics_follows_from_the_samples():
    def run(seconds, driver, replica):
        processors = {"driver": driver, "replica": replica}
        return {"output_tokens": 100, "generating_seconds": seconds, "processor_seconds": processors}

    samples = {
        SCRAPED: [run(12.1, 0.5, 1.3), run(12, 0.5, 1.1), run(10, 0.5, 1.2)],
        WITHOUT_METRICS: [run(12, 0.4, 1.0), run(12, 0.4, 1.0), run(10, 0.4, 1.0)],
    }
    share, speed = metrics_cost.goals_of({"p3": samples})
    assert (share.value, share.met) == (pytest.approx(0.3 / 10), False)
    assert (speed.value, speed.met) == (1, True)


@pytest.mark.slow
def test_arms_that_are_started_anew_serve_the_same_rows(ray_cluster, tmp_path):
    engine = {"max_num_seqs": 8, "step_seconds": 0.05}
    workloads = workloads_of(20, story_tokens=60, rewrite_tokens=8)
    samples = measure_arms([SCRAPED, KINDLING], workloads, engine, 1, [0], tmp_path, Model(id="fake"))
    assert list(samples) == ["stories", "rewrites"]
    for arms in samples.values():
        assert list(arms) == [SCRAPED, KINDLING]
        (scraped,), (plain,) = arms.values()
        assert scraped["rows"] == 20 and scraped["output_lengths"] == plain["output_lengths"]
        for run in (scraped, plain):
            assert 0 < run["generating_seconds"] <= run["seconds"] + 0.1
            assert run["processor_seconds"]["driver"] > 0 and run["processor_seconds"]["replica"] > 0


def test_the_scraper_reads_the_endpoint_of_a_run_once_it_is_there(tmp_path):
    paths = queue.Queue()

    class Endpoint(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.put(self.path)
            self.send_response(200)
            self.end_headers()

    command = [sys.executable, "-m", "pipelines.benchmarks.throughput.scraper", str(tmp_path)]
    with http.server.HTTPServer(("127.0.0.1", 0), Endpoint) as server, subprocess.Popen(command, cwd=ROOT) as scraper:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            (tmp_path / "run.json").write_text("{")
            (tmp_path / "run.json").write_text(json.dumps({"metrics": f"127.0.0.1:{server.server_port}"}))
            assert [paths.get(timeout=60) for _ in range(2)] == ["/metrics"] * 2
        finally:
            scraper.kill()
            server.shutdown()


def test_what_bench_train_switches_off_is_there(monkeypatch):
    for name in ("LengthGroupedSampler", "fits_on_cpu", "ProgressCallback"):
        monkeypatch.setattr(language_model, name, getattr(language_model, name))  # restored when the test ends
    for switch_off in training_arm.WITHOUT.values():
        switch_off()
    with pytest.raises(AttributeError):
        training_arm._patch("NoSuchName", None)


def test_the_rows_we_ship_are_enough_to_train_on():
    rows = training.rows_of(training.SHIPPED, 64)
    held_out = [row for row in rows if row[2]]
    assert (len(rows), len(held_out)) == (40, 24) and all(prompt and text for prompt, text, _ in rows)


@needs_data
@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_the_same_each_time_and_render(name):
    workload, again = (WORKLOADS[name](SHARED_DATA, 24) for _ in range(2))
    assert workload == again and len(workload.rows) == 24
    texts = [messages[0]["content"] for messages in workload.messages()]
    assert len(set(texts)) == 24 and len(set(workload.seeds("x"))) == 24
    openings = {text[:60] for text in texts}
    assert len(openings) == (24 if name == "unique" else len(openings))


@needs_data
def test_openings_ask_for_all_emotions_as_often():
    workload = p3_openings(SHARED_DATA, 60)
    counts = Counter(row["emotion"][0] for row in workload.rows)
    assert len(workload.rows) == 60 and len(counts) > 20 and max(counts.values()) - min(counts.values()) <= 1
    assert workload == p3_openings(SHARED_DATA, 60)


def test_the_shape_of_mistral_has_its_weights():
    # Mistral-7B-v0.3 has 7.25e9 weights, 2 x 32768 x 4096 of them in the embeddings.
    assert Shape(vocab_size=32768).weights == pytest.approx(7.248e9 - 32768 * 4096, rel=0.001)


def test_a_gpu_is_held_against_its_limits():
    run = {"prompt_tokens": 10_000, "cached_prompt_tokens": 4_000, "output_tokens": 10_000, "seconds": 2.0, "rows": 512}
    samples = {name: {"whole": [run], "kindling": [run]} for name in ("stories", "rewrites")}
    facts, goals = summarize(samples, Shape(), "fp8", "NVIDIA H200", max_num_seqs=100)
    assert facts["stories"]["tokens_per_second"] == 5000
    assert facts["stories"]["share_of_bandwidth"] == pytest.approx(50 * Shape().weights / 4.8e12)
    assert facts["stories"]["share_of_arithmetic"] == pytest.approx(2 * Shape().weights * 8000 / 1979e12)
    assert {goal.name: round(goal.value, 1) for goal in goals}["minutes for the paper's 33098 stories"] == 34.2
    unknown, _ = summarize(samples, Shape(), "fp8", "Another GPU", max_num_seqs=100)
    assert set(unknown["stories"]) == {"tokens_per_second"}
    assert all(limits.bytes_per_second > 1e11 for limits in LIMITS.values())


@pytest.mark.slow
def test_the_gpu_bench_runs_as_far_as_a_cpu_goes(tmp_path):
    code = """
import json, os, sys
from pathlib import Path
from pipelines.benchmarks.gpu import Shape, workloads_of, write_checkpoint
from pipelines.benchmarks.throughput.kept import KeptRuns
from pipelines.benchmarks.throughput.one_at_a_time import KINDLING, RAW, measure_arms
from schemas.job import Model
from services.cluster import connect_to_ray

if __name__ == "__main__":
    shape = Shape(256, 512, 2, 4, 2)
    model = Model(id=str(write_checkpoint(Path(sys.argv[1]) / "shape", shape, "gptq")), dtype="float16")
    engine = {"max_model_len": 1024, "max_num_seqs": 8, "load_format": "dummy"}
    cores, folder = sorted(os.sched_getaffinity(0)), Path(sys.argv[1])
    with connect_to_ray(None):
        samples = measure_arms([RAW, KINDLING], workloads_of(10, 12, 6), engine, 1, cores, folder, model)
    print(json.dumps(samples))
"""
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "run.py"), str(tmp_path)], env=cli_env(), cwd=tmp_path,
                          capture_output=True, text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    samples = json.loads(done.stdout.splitlines()[-1])
    for name, length in (("stories", 12), ("rewrites", 6)):
        for arm in ("whole", "kindling"):
            (run,) = samples[name][arm]
            assert run["rows"] == 10 and run["output_lengths"] == [length] * 10
        assert samples[name]["whole"][0]["prompt_tokens"] == samples[name]["kindling"][0]["prompt_tokens"]


@pytest.mark.slow
def test_the_gpu_bench_says_that_there_is_no_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    done = subprocess.run(["deploy/bench_gpu.sh", "/nonexistent/x"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    done = subprocess.run([sys.executable, "-m", "pipelines", "bench", "gpu", "--format", "fp8"], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == EXIT_USAGE and "no GPU is here" in done.stderr


@pytest.mark.slow
def test_bench_scale_prints_its_goals(kindling):
    done = kindling("bench", "scale", "--rows", "20000", "--shards", "100", "--rows-per-replica", "300")
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["bench"] == "scale" and len(document["goals"]) == 11
    assert {run["replicas"] for run in document["samples"]["real"]} == {1, 4, 16}
    assert done.returncode == (0 if all(goal["met"] for goal in document["goals"]) else 1)


@pytest.mark.slow
@needs_data
def test_bench_throughput_measures_the_cost_of_metrics(kindling):
    done = kindling("bench", "throughput", "--data", SHARED_DATA, "--rows", "20", "--rounds", "1", "--metrics")
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["bench"] == "throughput" and len(document["goals"]) == 2
    arms = document["samples"]["p3"]
    assert list(arms) == [SCRAPED, WITHOUT_METRICS]
    for (run,) in arms.values():
        assert run["output_lengths"] == [64] * 20 and 0 < run["generating_seconds"] <= run["seconds"]
        assert run["processor_seconds"]["driver"] > 0 and run["processor_seconds"]["replica"] > 0


@pytest.mark.slow
@needs_data
def test_the_arms_of_bench_throughput_serve_the_same_rows(tmp_path):
    code = """
import json, os, sys
from pathlib import Path
from pipelines.benchmarks.throughput.bench import ARMS, Bench
from pipelines.benchmarks.throughput.kept import KeptRuns
from pipelines.benchmarks.throughput.workloads import WORKLOADS
from services.cluster import connect_to_ray

if __name__ == "__main__":
    workload = WORKLOADS["unique"](Path(sys.argv[2]), 6)
    with connect_to_ray(None):
        kept = KeptRuns(Path(sys.argv[1]) / "kept.jsonl", {})
        bench = Bench(Path(sys.argv[1]), sorted(os.sched_getaffinity(0)), kept)
        engine = {"max_model_len": 1024, "max_num_seqs": 8}
        bench.run_rounds([workload], engine, ARMS, 2)
        bench.run_rounds([workload], engine, ["kindling"], 1)  # it is kept already
    print(json.dumps([KeptRuns(Path(sys.argv[1]) / "kept.jsonl", {}).samples(), bench.first_row_seconds]))
"""
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path), str(SHARED_DATA.resolve())]
    done = subprocess.run(command, env=cli_env(), cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    samples, first_row_seconds = json.loads(done.stdout.splitlines()[-1])
    arms = samples["unique"]
    assert list(arms) == throughput.ARMS and first_row_seconds
    measured = [run for runs in arms.values() for run in runs]
    assert len(measured) == 10 and len({run["prompt_tokens"] for run in measured}) == 1
    # No arm finds in its cache what an earlier run left there.
    assert {run["cached_prompt_tokens"] for run in measured} <= {0, None}
    for run in measured:
        assert run["rows"] == 6 and run["seconds"] > 0 and sum(run["output_lengths"]) == run["output_tokens"] > 6


def test_a_checkpoint_of_a_shape_has_a_chat_template(tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    folder = write_checkpoint(tmp_path / "m", Shape(256, 512, 2, 4, 2), "gptq")
    assert AutoConfig.from_pretrained(folder).quantization_config["bits"] == 4
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert Model(id=str(folder)).id == str(folder)
    assert [workload.sampling["max_tokens"] for workload in workloads_of(2)] == [310, 135]

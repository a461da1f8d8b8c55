"""A real Prometheus finds jobs, scrapes them and answers each query of the dashboard; promtool checks what we ship."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from datetime import datetime

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pipelines import augment, status
from pipelines.evaluation.progress import EvaluationProgress as EvaluationProgress
from schemas.errors import StoppedError
from schemas.job import Metrics
from services.observability.endpoint import serve_metrics
from services.observability.series import EvaluateMetrics, TrainMetrics
from services.storage.row_log import open_row_log
from services.storage.store import ShardStore
from tests.support.files import write_job, write_jsonl
from tests.support.monitoring import DASHBOARD, MONITORING, PANELS, entries, needs_prometheus
from tests.support.processes import cli_env, finished_rows, wait_for
from trainers.progress import StageProgress


class Prometheus:
    """A server on loopback, with the configuration that we ship, but faster and looking elsewhere for jobs."""

    def __init__(self, folder):
        self.targets = folder / "targets"
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
        config["rule_files"] = [str(MONITORING / "alerts.yml")]
        jobs, _ = config["scrape_configs"]
        jobs["file_sd_configs"] = [{"files": [f"{self.targets}/*.json"], "refresh_interval": "1s"}]
        config["scrape_configs"] = [jobs]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                   f"--web.listen-address={address}", "--log.level=error"]  # fmt: skip
        self._url, self._log = f"http://{address}", (folder / "log").open("w")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        wait_for(self._ready)

    def stop(self):
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _ready(self):
        try:
            return urllib.request.urlopen(f"{self._url}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    def ask(self, path, **parameters):
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        return json.loads(urllib.request.urlopen(url, timeout=20).read())["data"]

    def series(self, query):
        """The labels of each series that a query finds, and its value."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=query)["result"]]

    def value(self, query):
        """Of the one series that a query finds; None where there is none yet."""
        found = self.series(query)
        assert len(found) < 2, found
        return found[0][1] if found else None

    def by(self, label, query):
        return {labels[label]: value for labels, value in self.series(query)}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield server
    server.stop()


@pytest.fixture
def job(fake_job, contexts, prometheus):
    """400 rows, among them some that are refused, and one that cannot be read."""
    rows = [{"instruction": f"Name bird number {i} of the forest.", "input": "", "output": f"Bird {i}."}
            for i in range(400)]  # fmt: skip
    rows[2]["instruction"] = rows[1]["instruction"]
    rows[3]["output"] = "<nooutput>"
    rows[4]["instruction"] = None
    write_jsonl(contexts, rows)
    return fake_job | {
        "recipe": "alpaca_rewrite",
        "engine": {"max_num_seqs": 4, "step_seconds": 0.02},
        "cluster": {"cpus_per_replica": 1, "price_per_replica_hour": 3600.0},
        "metrics": {"port": 0, "targets": str(prometheus.targets)},
    }


def freeze_within_a_shard(run, pid):
    """Stops a replica when its last row does not end a shard, so that the job's end leaves rows in an open one."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)  # the endpoint counts rows in flight anew each second
        current = status(run)
        finished = sum(current.rows.values())
        if (finished + current.in_flight) % 8:
            return
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda before=finished: finished_rows(run) > before)


def on_disk(run):
    """Rows by state, and output tokens of accepted ones: by the manifests, and by the log of shards that are open."""
    store = ShardStore(run)
    committed = store.committed_shards()
    tokens = sum(store.read_manifest(shard).accepted_output_tokens for shard in committed)
    log = open_row_log(store)
    for shard in set(log.shards()) - committed:
        tokens += sum(row["output_tokens"] for row in log.recover(shard).to_pylist() if row["state"] == "accepted")
    return status(run).rows, tokens, len(committed)


def told(prometheus):
    rows = prometheus.by("state", 'kindling_rows_total{run="fake"}')
    tokens = prometheus.value('kindling_accepted_output_tokens_total{run="fake"}')
    return rows, tokens, prometheus.value('kindling_shards_committed_total{run="fake"}')


@needs_prometheus
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_real_prometheus_tells_of_a_job_equals_its_shards(job, prometheus, tmp_path, monkeypatch):
    run, faults, ended = job["output"]["path"], [], threading.Event()

    def look():
        try:
            wait_for(lambda: prometheus.series('kindling_rows_total{run="fake"}'))
            before = finished_rows(run)
            wait_for(lambda: finished_rows(run) >= before + 20)
            (replica,) = ShardStore(run).read_run().replicas
            freeze_within_a_shard(run, replica["pids"][0])  # from here on no row comes to its end
            try:
                check_what_is_told(prometheus, run)
                check_every_query_of_the_dashboard(prometheus, tmp_path)
                check_rules(prometheus)
            finally:
                os.kill(replica["pids"][0], signal.SIGCONT)
        except BaseException as error:
            faults.append(error)
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with pytest.raises(StoppedError):
            augment(job)
    finally:
        ended.set()
        watcher.join()
        if faults:
            raise faults[0]
    stopped = ShardStore(run).read_run()
    check_last_metrics(stopped, *on_disk(run))
    assert not list(prometheus.targets.iterdir())
    wait_for(lambda: not prometheus.ask("targets")["activeTargets"])

    # Whoever looks first at the next start finds what there is on disk, or its counters would seem to be reset.
    left, opened = on_disk(run), {}
    assert sum(left[0].values()) > left[2] * 8  # in open shards there are some, too

    def opening(series, section):
        opened.update(series.values())
        return serve_metrics(series, section)

    monkeypatch.setattr("pipelines.augmentation.shared.serve_metrics", opening)
    job["engine"]["max_num_seqs"] = 256
    summary = augment(job)
    check_counters(opened, *left)
    whole = ShardStore(run).read_run()
    rows, tokens, shards = on_disk(run)
    assert rows == {"accepted": 397, "rejected": 2, "error": 1} and shards == 50
    check_last_metrics(whole, rows, tokens, shards)
    last = whole.last_metrics
    assert last["kindling_progress_ratio"] == 1 and last['kindling_rejects_total{reason="nooutput"}'] == 1
    assert round(last["kindling_goodput_tokens_per_second"], 1) == summary.tokens_per_second
    paid = stopped.last_metrics["kindling_replica_seconds_total"]
    assert 0 < paid < last["kindling_replica_seconds_total"] and stopped.ended_at <= whole.ended_at
    assert whole.fingerprint == stopped.fingerprint

    augment(job)  # nothing is left to do, and so nothing new to tell
    assert ShardStore(run).read_run().last_metrics == last


def check_what_is_told(prometheus, run):
    wait_for(lambda: told(prometheus) == on_disk(run))
    rows, tokens, _ = on_disk(run)
    assert rows["accepted"] >= 17 and rows["rejected"] == 2 and rows["error"] == 1 and tokens >= 17 * 8
    record = ShardStore(run).read_run()
    # Series of another start are others, so that no rate reaches from one into the next.
    assert {labels["start"] for labels, _ in prometheus.series("kindling_rows_total")} == {record.start_id}
    # Gauges are set a moment after the counters.
    wait_for(lambda: prometheus.value("kindling_progress_ratio") == sum(rows.values()) / record.outputs)
    wait_for(lambda: prometheus.value("kindling_requests_in_flight") == 5)  # 1.1 times what the engine runs
    assert prometheus.by("reason", "kindling_rejects_total") == {"near_duplicate": 1, "nooutput": 1}
    assert prometheus.by("state", "kindling_replicas") == {"serving": 1, "starting": 0}
    # The gauge of goodput is over the seconds since the engine was up, and those lie between what the files tell.
    seconds = tokens / prometheus.value("kindling_goodput_tokens_per_second")
    now = prometheus.value("vector(time())")
    spans = [(moment(m.started_at), moment(m.finished_at)) for m in map(ShardStore(run).read_manifest, committed(run))]
    assert max(end for _, end in spans) - min(start for start, _ in spans) <= seconds
    assert seconds <= now - moment(record.created_at)
    assert prometheus.value("kindling_replica_seconds_total") >= seconds - 2  # scraped at another time


def check_every_query_of_the_dashboard(prometheus, tmp_path):
    """Beside the job a training and an evaluation, which are further targets of the same folder."""
    training, evaluation = TrainMetrics("student"), EvaluateMetrics("exam")
    section = Metrics(port=0, targets=str(prometheus.targets))
    with (
        serve_metrics(training, section),
        serve_metrics(evaluation, section),
        StageProgress("0-sft", training, tmp_path) as stage,
        EvaluationProgress(evaluation).show("blimp", "pairs", {"student": 10}) as advance,
    ):
        stage.begin(100)
        stage.on_step(tokens=512)
        stage.on_loss(3.5, 2e-5)
        stage.on_held_out(3.6)
        advance("student", 4)
        evaluation.failed.labels("exam", "blimp").set(0)
        for twice in ("kindling_train_steps_total", "kindling_evaluate_examples_total"):
            wait_for(lambda twice=twice: (prometheus.value(f"count_over_time({twice}[5m])") or 0) >= 2)
        assert prometheus.value('sum(up{job="kindling"})') == prometheus.value('count(up{job="kindling"})') == 3
        matches = re.findall(r"label_values\((\{.*\}), run\)", variable("run")["query"]["query"])
        assert sorted(prometheus.ask("label/run/values", **{"match[]": matches[0]})) == ["exam", "fake", "student"]
        for panel in PANELS:
            for target in panel["targets"]:
                query = target["expr"].replace("$run", ".+").replace("$__rate_interval", "5m")
                found = prometheus.series(query)
                assert found and all(math.isfinite(value) for _, value in found), (panel["title"], query, found)
                # What Grafana is to write beside a line tells it from the others.
                names = {re.sub(r"{{(\w+)}}", lambda m, has=labels: has[m[1]], target["legendFormat"])
                         for labels, _ in found}  # fmt: skip
                assert len(names) == len(found), (panel["title"], found)


def check_rules(prometheus):
    (group,) = prometheus.ask("rules")["groups"]
    assert len(group["rules"]) == 7
    wait_for(lambda: {rule["health"] for rule in prometheus.ask("rules")["groups"][0]["rules"]} == {"ok"})


def check_counters(told, rows, tokens, shards):
    assert {state: told[f'kindling_rows_total{{state="{state}"}}'] for state in rows} == rows
    assert told["kindling_accepted_output_tokens_total"] == tokens
    assert told["kindling_shards_committed_total"] == shards


def check_last_metrics(record, rows, tokens, shards):
    last = record.last_metrics
    check_counters(last, rows, tokens, shards)
    assert last["kindling_price_per_replica_hour"] == 3600 and last["kindling_requests_in_flight"] == 0


def committed(run):
    return sorted(ShardStore(run).committed_shards())


def moment(iso):
    return datetime.fromisoformat(iso).timestamp()


def variable(name):
    (found,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == name]
    return found


@pytest.mark.slow
def test_the_series_of_vllm_are_found_beside_those_of_the_job(fake_job, tmp_path):
    targets = tmp_path / "targets"
    job = {
        **fake_job,
        "model": {"id": "embedded"},
        "samples": 8,
        "engine": {"max_model_len": 1024, "max_num_seqs": 4},
        "metrics": {"port": 0, "targets": str(targets)},
    }
    command = [sys.executable, "-m", "pipelines", "augment", write_job(tmp_path / "job.yaml", job)]
    process = subprocess.Popen(command, cwd=tmp_path, env=cli_env(), stderr=subprocess.PIPE, text=True)

    def vllm_tells():
        assert process.poll() is None, process.stderr.read()
        ray = [each["targets"][0] for each in entries(targets) if each["labels"].get("job") == "ray"]
        text = urllib.request.urlopen(f"http://{ray[0]}/metrics", timeout=20).read().decode() if ray else ""
        series = {sample.name: sample.value for family in text_string_to_metric_families(text)
                  for sample in family.samples if sample.name.startswith("ray_vllm_")}  # fmt: skip
        # Requests that began together end together, and for a moment none runs.
        there = series.get("ray_vllm_generation_tokens_total") and series.get("ray_vllm_num_requests_running")
        return series if there else None

    try:
        told = wait_for(vllm_tells, seconds=500)
    finally:
        process.terminate()
        process.communicate(timeout=100)
    assert told["ray_vllm_num_requests_running"] <= 4 and 0 < told["ray_vllm_kv_cache_usage_perc"] <= 1
    assert told["ray_vllm_prompt_tokens_total"] > 100
    assert not [name for name in told if "inter_token" in name]
    assert 0 < ShardStore(job["output"]["path"]).read_run().last_metrics["kindling_kv_cache_usage_ratio"] <= 1

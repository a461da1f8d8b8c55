"""`kindling status`: what it tells from disk, from the endpoint of a job that runs, on a terminal and in a pipe."""

import heapq
import http.server
import json
import math
import os
import pty
import random
import select
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipelines import augment, status
from pipelines.augmentation.eta import Pace, left_to_generate
from pipelines.evaluation.record import recorded, write_record
from pipelines.run_folder import read_record
from pipelines.run_status.label import LabelStatus
from pipelines.run_status.page import render_page
from pipelines.run_status.train import TrainStatus
from pipelines.run_status.watch import watch
from schemas.errors import RunError, StoppedError
from schemas.evaluate import EvaluateJob
from schemas.rows import ACCEPTED, REJECTED, FinishedRows, to_batch
from services.observability.endpoint_reader import EndpointError, read_endpoint
from services.observability.metrics import ReplicaStatus
from services.observability.series import AugmentMetrics, EvaluateMetrics
from services.storage.shard_index import read_index
from services.storage.shard_writer import ShardWriter
from services.storage.store import ShardStore
from tests.support.files import ROOT
from tests.support.processes import cli_env, wait_for
from tests.support.runs import UNCONTESTED, record, run_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


# How fast, and how long yet


def finish_times(rng, rows, slots, drift):
    """When rows that slots take one after another come to their end, and how long each took; speeds wander."""
    running, level, ended = [(took, took) for took in (rng.lognormvariate(3, 0.4) for _ in range(slots))], 0.0, []
    heapq.heapify(running)
    for row in range(rows):
        at, took = heapq.heappop(running)
        ended.append((at, took))
        if row + slots < rows:
            level = 0.999 * level + rng.gauss(0, drift)
            took = rng.lognormvariate(3, 0.4) * math.exp(level)
            heapq.heappush(running, (at + took, took))
    return ended


@pytest.mark.parametrize(("rows", "slots", "drift"), [(1500, 32, 0.0), (1500, 32, 0.004), (300, 16, 0.0)])
def test_the_last_row_comes_within_the_interval_nine_times_in_ten(rows, slots, drift):
    rng, looks, within, halves = random.Random(7), 0, 0, []
    for _ in range(60):
        ended = finish_times(rng, rows, slots, drift)
        now = ended[-1][0] * rng.uniform(0.1, 0.97)
        pace, done = Pace(), [each for each in ended if each[0] <= now]
        pace.begin(0.0)
        for at, took in done:
            pace.add(at, 1, 10, 10, took)
        eta, true = pace.eta(now, rows - len(done)), ended[-1][0] - now
        if eta is None:  # only while rows that were among the first may still run
            assert now < 2 * max(took for _, took in done)
            continue
        looks += 1
        within += eta.low <= true <= eta.high
        halves.append((eta.high - eta.low) / 2 / true)
        assert eta.low <= eta.seconds <= eta.high
    assert looks > 30 and within >= 0.85 * looks
    assert sorted(halves)[looks // 2] < 0.8  # and it is of use


def test_a_rate_forgets_what_was_and_an_end_without_a_bound_says_so():
    pace = Pace()
    assert pace.eta(0.0, 10) is None and pace.rates(0.0).rows == 0
    pace.begin(0.0)
    for second in range(1000):
        pace.add(float(second), 1 if second < 300 else 3, 6, 4, 1.0)
    eta, rates = pace.eta(999.0, 900), pace.rates(999.0)
    assert 299 < eta.seconds < 302 and rates.rows == pytest.approx(3, rel=0.03)
    assert rates.output_tokens == pytest.approx(6, rel=0.03) and rates.accepted_tokens == pytest.approx(4, rel=0.03)
    assert pace.eta(1500.0, 900).high == math.inf  # nothing came for most of the history
    assert pace.eta(9000.0, 900) is None and pace.eta(9000.0, 0).seconds == 0


def test_refused_rows_are_in_no_rate_and_no_time_left():
    pace = Pace()
    pace.begin(0.0)
    for second in range(100):  # 300 rows were refused at once; of 100 others one a second is generated, 20 at a time
        pace.add(float(second), 1 if second < 40 else 0, 10, 10, 5.0)
    assert pace.eta(40.0, left_to_generate(60, 20, 40, 300)).seconds > pace.eta(40.0, 20).seconds
    assert left_to_generate(60, 60, 40, 300) == 60  # all that are left are with engines, so none is refused
    assert left_to_generate(60, 20, 40, 0) == 60
    assert left_to_generate(1020, 20, 480, 500) == pytest.approx(20 + 500)
    assert left_to_generate(0, 0, 0, 0) == 0


# From disk


def spanned(index, start, seconds, state=ACCEPTED):
    return {**record(index, state), "started_at": start, "duration_seconds": seconds, "output_tokens": 60}


def write(folder, run, rows):
    """Takes rows as a driver does that is stopped then."""
    store = ShardStore(str(folder))
    store.write_run(run)
    ranges = {number: (start, end) for number, start, end in run.shard_ranges()}
    writer = ShardWriter(store, run, read_index(store, run), UNCONTESTED, lambda *_: None, lambda _: None)
    shards = [row["row_index"] // run.rows_per_shard for row in rows]
    for shard in sorted(set(shards)):
        writer.open(shard, *ranges[shard])
    ids = [row["row_index"] for row in rows]
    writer.put(FinishedRows(ids, shards, to_batch(rows).serialize().to_pybytes(), 0))
    writer.close()
    assert writer.error is None


def test_a_night_between_two_starts_counts_for_no_rate(tmp_path):
    """One row a second; the shard that is open in the night is half done then."""
    run = run_of(10)  # of four rows each
    write(tmp_path, run, [spanned(i, NOON + timedelta(seconds=i), 1.0) for i in range(10)])
    evening = status(str(tmp_path))
    assert (evening.shards, evening.logged, evening.rows[ACCEPTED]) == (2, 2, 10)
    assert evening.active_seconds == 10 and evening.goodput_tokens_per_second == 60
    assert evening.open_shards[0] == {
        "shard": 2, "rows": 2, "rows_total": 4, "started_at": "2026-01-02T12:00:08+00:00",
    }  # fmt: skip
    assert render_page(evening, NOON, 80)[-1] == "open      shard 2: 2 of 4 rows"  # the pause is no age
    morning = NOON + timedelta(hours=8)
    write(tmp_path, run, [spanned(i, morning + timedelta(seconds=i), 1.0, REJECTED) for i in range(10, 20)])
    found = status(str(tmp_path))
    assert found.active_seconds == 20 and found.goodput_tokens_per_second == 30  # half of the tokens are of no use
    assert found.goodput_now_tokens_per_second == 10  # of the last twelve rows, in shards that ended this morning, two
    assert found.eta_seconds == pytest.approx(20, rel=0.06) and found.eta_low_seconds <= 20 <= found.eta_high_seconds
    assert found.rejects == {"because": 10} and found.last_row_at == "2026-01-02T20:00:20+00:00"
    assert {each["seconds"] for each in found.slowest_shards} == {4.0}
    assert (found.source, found.silent.startswith("the job has no endpoint")) == ("disk", True)
    # As after a crash that left no index, and for a run that is read by its footers.
    (tmp_path / "index.parquet").unlink()
    assert status(str(tmp_path)) == found


# From the endpoint


@pytest.fixture
def served():
    """Opens endpoints: served() -> its metrics, the `host:port`."""
    opened = []

    def serve():
        metrics = AugmentMetrics("r")
        opened.append(metrics)
        return metrics, metrics.serve("127.0.0.1", 0)[0]

    yield serve
    for each in opened:
        each.close()


def test_an_endpoint_is_believed_only_if_it_is_of_this_start(tmp_path, served):
    """The names of jobs are no identities: this other one has the same."""
    mine, address = served()
    run = run_of(1)
    run.metrics, run.start_id = address, mine.start_id
    write(tmp_path, run, [])
    mine.rows.labels("r", ACCEPTED).inc(3)
    found = status(str(tmp_path))
    assert (found.source, found.silent, found.rows[ACCEPTED]) == ("endpoint", "", 3)
    for start_id in (served()[0].start_id, ""):  # another start's; and that of a version which knew none
        run.start_id = start_id
        ShardStore(str(tmp_path)).write_run(run)
        found = status(str(tmp_path))
        assert (found.source, found.rows[ACCEPTED]) == ("disk", 0)
        assert found.silent.startswith(f"{address} is another job's")
        assert f"from disk: {found.silent}" in render_page(found, NOON, 80)


def test_whoever_else_has_the_port_is_told_of(served):
    mine, real = served()

    class Junk(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.server.body else 302)
            self.send_header("Location", f"http://{real}/metrics")
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Junk) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        for body in (b"", b"<html>hello there</html>", b"\xff\xfe\x00", b"kindling_rows_total{ 3"):
            server.body = body
            with pytest.raises(EndpointError, match=f"{address} is another program's: the job ended or is elsewhere"):
                read_endpoint(address, mine.start_id)
        server.shutdown()
    with pytest.raises(EndpointError, match=f"{address} is silent"):
        read_endpoint(address, mine.start_id)
    with pytest.raises(EndpointError, match="no endpoint"):
        read_endpoint(f"{real}/metrics?", mine.start_id)
    assert read_endpoint(real, mine.start_id).value("kindling_progress_ratio", start=mine.start_id) == 0


def test_each_replica_is_told_as_it_is_when_somebody_asks(served):
    metrics, address = served()
    there = [ReplicaStatus(0, "serving", 5, 70, 1, 1767355200.0), ReplicaStatus(1, "starting", 0, 0, 0, None)]
    metrics.add_replica_series(lambda: there)
    told = read_endpoint(address, metrics.start_id)
    assert told.values_by("replica", "kindling_replica_rows_total") == {"0": 70, "1": 0}
    assert told.values_by("replica", "kindling_replica_last_rows_timestamp_seconds") == {"0": 1767355200.0}
    assert told.value("kindling_replica_state", run="r", replica="1", state="starting") == 1
    there.pop()
    assert read_endpoint(address, metrics.start_id).values_by("replica", "kindling_replica_deaths_total") == {"0": 1}


@pytest.fixture
def in_the_background(fake_job, ray_cluster):
    """Runs a job beside the test, to its end: in_the_background(job) -> its folder, once a row is there."""
    threads = []

    def run(job):
        threads.append(threading.Thread(target=augment, args=(job,)))
        threads[-1].start()
        folder = job["output"]["path"]
        wait_for(lambda: os.path.exists(f"{folder}/run.json") and sum(status(folder).rows.values()))
        return folder

    yield run
    for thread in threads:
        thread.join()


def test_a_job_that_runs_tells_how_it_is(fake_job, in_the_background, monkeypatch, capsys):
    """And whoever watches it sees it come to its end."""
    fake_job["engine"] = {"max_num_seqs": 2, "start_seconds": 0.2}
    fake_job["cluster"]["replicas"] = 2
    folder = in_the_background(fake_job)
    found = wait_for(lambda: (now := status(folder)).source == "endpoint" and now.eta_seconds and now)
    assert not found.complete and 0 < found.in_flight <= 40 - sum(found.rows.values()) + 4
    assert [each["number"] for each in found.replicas] == [0, 1]
    assert {each["state"] for each in found.replicas} <= {"starting", "serving"}
    assert found.goodput_now_tokens_per_second > 0 and found.last_row_at
    text = "\n".join(render_page(found, datetime.now(UTC), 80))
    assert "running" in text and "in the last minute" in text and " in flight" in text and "replicas  state" in text

    monkeypatch.setattr("pipelines.run_status.watch._LINE_SECONDS", 0.05)
    monkeypatch.setattr("pipelines.run_status.watch._MAX_SHARE_OF_TIME", 1.0)
    watch(folder, as_json=True)
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [each["complete"] for each in lines] == [False] * (len(lines) - 1) + [True]
    finished = [sum(each["rows"].values()) for each in lines]
    assert finished == sorted(finished) and finished[-1] == 40
    assert lines[-1]["source"] == "disk" and lines[-1]["silent"] == ""
    watch(folder)  # in a pipe, of a run that is complete: one line, and the end
    assert capsys.readouterr().out.count("\n") == 1


def test_a_shard_that_is_committed_while_one_looks_is_counted_once(tmp_path, monkeypatch):
    run = run_of(3)
    write(tmp_path, run, [spanned(i, NOON + timedelta(seconds=i), 1.0) for i in range(6)])
    assert (status(str(tmp_path)).shards, status(str(tmp_path)).logged) == (1, 2)
    read = []

    def late(store, record):
        if not read:  # its driver finishes the open one, and the next, before the index is read
            read.append(True)
            write(tmp_path, run, [spanned(i, NOON + timedelta(seconds=i), 1.0) for i in range(6, 12)])
        return read_index(store, record)

    monkeypatch.setattr("pipelines.run_status.augment.read_index", late)
    found = status(str(tmp_path))
    assert (found.shards, found.logged, found.rows[ACCEPTED]) == (3, 0, 12)


def test_a_training_that_diverged_is_json_that_anybody_can_read(tmp_path):
    record = {"name": "t", "job": {"stages": [{"kind": "clm"}]}, "stages": []}
    (tmp_path / "train.json").write_text(json.dumps(record))
    checkpoint = tmp_path / "work/0-clm/checkpoint-5"
    checkpoint.mkdir(parents=True)
    history = [{"loss": 9.0}, {"eval_loss": math.nan}]
    state = {"global_step": 5, "max_steps": 9, "log_history": history}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    found = status(str(tmp_path)).as_json()
    assert json.loads(json.dumps(found, allow_nan=False))["held_out_loss"] is None
    assert (found["step"], found["loss"]) == (5, 9.0)


# The page


def test_the_page_fits_the_terminal_and_says_what_it_leaves_out(tmp_path):
    write(tmp_path, run_of(10), [spanned(i, NOON + timedelta(seconds=i), 1.0 + i % 3) for i in range(30)])
    found = status(str(tmp_path))
    replicas = [
        {"number": n, "state": "serving", "in_flight": 9, "rows": n, "deaths": n == 30, "last_rows_at": None,
         "node": "n", "cores": [0, 1, 2, 5]} for n in range(40)
    ]  # fmt: skip
    replicas[20]["state"] = "starting"
    rejects, variants = {f"rule {n}": 9 for n in range(30)}, ["v" * 300]
    crowded = replace(found, rejects=rejects, replicas=replicas, variants=variants, name="r\x1b[2J")
    for width, height in ((80, 24), (40, 24), (200, 50), (80, 12)):
        lines = render_page(crowded, NOON, width, height)
        assert len(lines) <= height and max(map(len, lines)) <= width
        assert all(text.isprintable() for text in lines)
    lines = render_page(crowded, NOON, 80, 24)
    assert any("and 27 more" in text or "more" in text for text in lines)
    at = next(i for i, text in enumerate(lines) if text.startswith("replicas"))
    assert lines[at + 1].split()[:2] == ["20", "starting"] and lines[at + 2].split()[0] == "30"  # trouble comes first
    assert "cores 0-2,5" in lines[at + 2]
    assert render_page(found, NOON, 80)[0] == "r: 30 of 40 rows (75.0%), stopped"


def test_a_training_and_a_labelling_have_pages_too():
    training = TrainStatus(
        run="o", name="t", complete=False, state="running", source="endpoint", silent="", stages=["0-clm", "1-sft"],
        stage=1, step=30, steps=120, loss=2.5, tokens_per_second=900.0, eta_seconds=90.0,
    )  # fmt: skip
    assert render_page(training, NOON, 80) == [
        "t: a training, running, stage 1-sft (2 of 2), step 30 of 120",
        "[" + "#" * 19 + "-" * 59 + "]",
        "loss      2.5000",
        "speed     900 tokens/s",
        "left      at most 01:30",
    ]
    assert training.line() == "t: a training, running, stage 1-sft (2 of 2), step 30 of 120, about 01:30 left"
    label = LabelStatus(run="o", name="l", complete=False, state="stopped", shards=3, shards_total=7)
    assert label.line() == "l: 3 of 7 shards, stopped"


def test_of_an_evaluation_results_and_answers_are_counted(tmp_path):
    job = EvaluateJob.model_validate(
        {
            "name": "e",
            "models": [{"id": "fake", "name": "one"}, {"id": "fake", "name": "two"}],
            "evaluations": ["sentiment", "preference", "lm_eval"],
            "sentiment": {"prompts": "p.json"},
            "preference": {"prompts": "p.json", "returned": ["*.json"]},
            "lm_eval": {"tasks": ["piqa", "mnli"]},
            "output": {"path": str(tmp_path)},
        }
    )
    write_record(ShardStore(str(tmp_path)), job, {}, metrics="127.0.0.1:1", start_id="none")
    for each in ("sentiment/one", "lm_eval/one/piqa", "lm_eval/two/piqa", "lm_eval/two/mnli"):
        ShardStore(str(tmp_path)).write_text(f"results/{each}.json", "{}")
    run = run_of(2)
    write(tmp_path / "responses/sentiment/two", run, [spanned(i, NOON, 1.0) for i in range(6)])
    found = status(str(tmp_path))
    assert render_page(found, NOON, 100) == [
        "e: an evaluation, 2 of 7 results, stopped",
        "[" + "#" * 22 + "-" * 56 + "]",
        "from disk: 127.0.0.1:1 is silent: the job ended or is elsewhere",
        "go on     run the same `kindling evaluate` again: it resumes",
        "sentiment   1 of 2; two: 6 of 8 prompts answered",
        "preference  0 of 3",
        "lm_eval     1 of 2; one: 1 of 2",
    ]
    # The last start came to its end without one model, of which there is no result, nor a questionnaire of all.
    write_record(ShardStore(str(tmp_path)), job, {"two": "it is nowhere"})
    assert not status(str(tmp_path)).complete  # of the other one not all is there
    ShardStore(str(tmp_path)).write_text("results/lm_eval/one/mnli.json", "{}")
    found = status(str(tmp_path))
    assert found.complete and found.line() == "e: an evaluation, 3 of 7 results, failed"
    assert render_page(found, NOON, 100)[-1] == "failed    two: it is nowhere"


def test_an_evaluation_that_gets_another_model_is_not_complete_any_more(tmp_path):
    store = ShardStore(str(tmp_path))
    plain = {"name": "e", "models": [{"id": "fake", "name": "one"}], "evaluations": ["blimp"]}
    plain["output"] = {"path": str(tmp_path)}
    with recorded(store, EvaluateJob.model_validate(plain), "", EvaluateMetrics("exam")):
        store.write_text("results/blimp/one.json", "{}")
    assert status(str(tmp_path)).complete
    plain["models"].append({"id": "fake", "name": "two"})
    with recorded(store, EvaluateJob.model_validate(plain), "", EvaluateMetrics("exam")):
        assert status(str(tmp_path)).line() == "e: an evaluation, 1 of 2 results, running"


def test_what_an_evaluation_told_last_outlives_a_start_that_tells_nothing(tmp_path):
    store, series = ShardStore(str(tmp_path)), EvaluateMetrics("e")
    plain = {"name": "e", "models": [{"id": "fake", "name": "one"}], "evaluations": ["blimp"]}
    job = EvaluateJob.model_validate({**plain, "output": {"path": str(tmp_path)}})
    series.examples.labels("e", "blimp", "one").inc(7)
    name = 'kindling_evaluate_examples_total{evaluation="blimp",model="one"}'
    for each in (series, EvaluateMetrics("e")):
        with pytest.raises(StoppedError), recorded(store, job, "", each):
            raise StoppedError("", None, "by a signal", "go on")
        record = read_record(store, "evaluate")
        assert record["last_metrics"][name] == 7 and record["ended_at"] and record["start_id"] == each.start_id
    with recorded(store, job, "", EvaluateMetrics("e")):
        assert read_record(store, "evaluate")["last_metrics"][name] == 7  # and so it is if this one is killed


def test_what_replicas_cost_is_told_from_disk_and_from_the_endpoint(tmp_path, served):
    mine, address = served()
    run = run_of(1)
    run.last_metrics = {"kindling_replica_seconds_total": 3600.0 * 250, "kindling_price_per_replica_hour": 0.04}
    write(tmp_path, run, [])
    found = status(str(tmp_path))
    assert (found.replica_hours, found.cost) == (250, 10)
    assert "cost      10.00, 250 replica-hours" in render_page(found, NOON, 80)
    run.metrics, run.start_id = address, mine.start_id
    ShardStore(str(tmp_path)).write_run(run)
    mine.replica_seconds.inc(3600)
    found = status(str(tmp_path))
    assert (found.source, found.replica_hours, found.cost) == ("endpoint", 1.0, None)  # this start has no price


def test_a_composed_corpus_is_named(tmp_path):
    (tmp_path / "composition.json").write_text("{}")
    with pytest.raises(RunError, match="corpus"):
        status(str(tmp_path))


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"job": {"name": 3}, "failures": {}}'])
def test_a_record_of_an_evaluation_that_is_none_is_one_error(tmp_path, record):
    (tmp_path / "evaluate.json").write_text(record)
    with pytest.raises(RunError, match="evaluat"):
        status(str(tmp_path))


# On a terminal


def on_terminal(command, environment, until, keys):
    """Runs a command on a terminal of 80 x 24, types keys when `until` is shown; its exit code and all it wrote."""
    child, terminal = pty.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGHUP):  # who runs tests in the background may have them ignored
            signal.signal(number, signal.SIG_DFL)
        os.chdir(ROOT)
        os.execvpe(command[0], command, cli_env(COLUMNS="80", LINES="24", **environment))
    written, typed, end = b"", False, time.monotonic() + 90
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                written += os.read(terminal, 65536)
            except OSError:  # nobody has the other end any more
                break
        if not typed and until in written:
            typed = True
            os.write(terminal, keys)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.decode()


def test_the_lines_end_with_their_reader(tmp_path, monkeypatch, capsys):
    write(tmp_path, run_of(10), [])
    monkeypatch.setattr("pipelines.run_status.watch.is_stdout_read", lambda: False)
    watch(str(tmp_path))
    assert "0 of 40 rows" in capsys.readouterr().out


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_ctrl_c_leaves_the_page_and_the_terminal_as_it_was(tmp_path, term):
    write(tmp_path, run_of(10), [spanned(i, NOON + timedelta(seconds=i), 1.0) for i in range(30)])
    command = [sys.executable, "-m", "pipelines", "status", str(tmp_path), "--watch"]
    code, written = on_terminal(command, {"TERM": term}, b"30 of 40 rows", b"\x03")
    assert code == 0 and "Traceback" not in written and "resume with" not in written
    if term == "xterm":
        assert written.index("\x1b[?1049h") < written.index("\x1b[?1049l")  # into the other screen, and back
        assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is there again
        assert "30 of 40 rows (75.0%), stopped" in written[written.index("\x1b[?1049l") :]
    else:
        assert "\x1b" not in written and written.count("30 of 40 rows") == 1

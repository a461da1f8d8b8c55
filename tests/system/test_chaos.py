"""The chaos bench: that its checker finds every kind of damage where it is planted, and that a short run has none."""

import http.client
import json
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import augment
from pipelines.benchmarks.chaos import object_store
from pipelines.benchmarks.chaos.bench import goals_of
from pipelines.benchmarks.chaos.check import Findings, check_run, expected_run
from pipelines.benchmarks.chaos.jobs import fake_job as chaos_job
from pipelines.benchmarks.chaos.watch import Watcher, count_repeated_requests, read_logs
from schemas.rows import ROW_SCHEMA
from services.engines.fake_engine import journal_line
from services.storage.failpoints import COMMIT
from services.storage.row_log import open_row_log
from services.storage.store import ShardStore
from tests.support.files import write_jsonl
from tests.support.processes import cli_env

FAULTS = ["", *(name for name in object_store.SHARES if name != "stale")]
DATA, ERRORS, REJECTED = (f"{folder}/part-00001.parquet" for folder in ("data", "errors", "rejected"))


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """A complete run, and what it must come to: 24 rows in shards of 8, with two samples; 9 fails, 10 is rejected."""
    folder = tmp_path_factory.mktemp("chaos")
    rows = [{"instruction": f"What is {i}?", "input": "", "output": "A number."} for i in range(24)]
    rows[9]["instruction"], rows[10]["output"] = None, ""
    write_jsonl(folder / "rows.jsonl", rows)
    job = {
        "name": "checked",
        "input": {"path": str(folder / "rows.jsonl")},
        "recipe": "alpaca_rewrite",
        "samples": 2,
        "model": {"id": "fake"},
        "sampling": {"max_tokens": 32},
        "engine": {"max_num_seqs": 8},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(folder / "run"), "rows_per_shard": 8},
        "metrics": {"port": None},
        "seed": 3,
    }
    return Path(augment(job).run), expected_run(job)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of that run to damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def kinds(findings):
    return {kind for kind, faults in asdict(findings).items() if faults}


def rewrite(path, change):
    """Writes a Parquet file again with other rows and the same footer."""
    file = pq.ParquetFile(path)
    rows, manifest = change(file.read()), file.metadata.metadata.get(b"kindling.manifest")
    with pq.ParquetWriter(path, rows.schema, write_page_checksum=True) as writer:
        writer.write_table(rows)
        if manifest:
            writer.add_key_value_metadata({"kindling.manifest": manifest.decode()})


def with_column(rows, name, values):
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values))


def first_changed(name, value):
    """A change of one column of the first row."""
    return lambda rows: with_column(rows, name, [value, *rows[name].to_pylist()[1:]])


def flipped(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_whole_run_has_no_findings(finished):
    run, wanted = finished
    assert check_run(run, wanted) == Findings()
    assert Counter(wanted.states.values()) == {"accepted": 44, "error": 2, "rejected": 2}
    assert len(wanted.seeds) == 48 and len(wanted.texts) == 44 and [len(shard) for shard in wanted.shards] == [16] * 3


DAMAGES = {
    "a lost row": (lambda run: rewrite(run / DATA, lambda rows: rows.slice(1)), {"lost"}),
    "a lost shard": (lambda run: (run / DATA).unlink(), {"lost", "unexpected"}),
    "a doubled row": (lambda run: rewrite(run / DATA, lambda rows: pa.concat_tables([rows, rows[:1]])), {"doubled"}),
    "a torn data file": (lambda run: (run / DATA).write_bytes((run / DATA).read_bytes()[:-100]),
                         {"torn", "lost", "unexpected"}),
    "an empty data file": (lambda run: (run / DATA).write_bytes(b""), {"torn", "lost", "unexpected"}),
    "a flipped byte": (lambda run: flipped(run / DATA, 200), {"torn", "lost", "unexpected"}),
    "a wrong text": (lambda run: rewrite(run / DATA, first_changed("text", "no such text")), {"wrong"}),
    "a wrong seed": (lambda run: rewrite(run / DATA, first_changed("seed", 7)), {"wrong"}),
    "a wrong state": (lambda run: rewrite(run / DATA, first_changed("state", "rejected")), {"wrong"}),
    "a row of another input": (lambda run: rewrite(run / DATA, first_changed("row_index", 99)), {"lost", "unexpected"}),
    "a missing sibling": (lambda run: (run / ERRORS).unlink(), {"torn", "lost"}),
    "another missing sibling": (lambda run: (run / REJECTED).unlink(), {"torn", "lost"}),
    "another sibling": (lambda run: rewrite(run / REJECTED, first_changed("reason", "bad luck")), {"torn"}),
    "a row in another folder": (lambda run: rewrite(run / REJECTED, first_changed("state", "error")),
                                {"torn", "wrong"}),
    "a sibling too many": (lambda run: (run / "errors/part-00002.parquet").write_bytes((run / ERRORS).read_bytes()),
                           {"unexpected", "doubled"}),
    "a log left behind": (lambda run: (run / "log/part-00001.arrows").write_bytes(b""), {"unexpected"}),
    "a half-written file": (lambda run: (run / "data/.part-00001.parquet.7.tmp").write_bytes(b"PAR1"), {"unexpected"}),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(finished, copy, damage):
    (copy / "log").mkdir(exist_ok=True)
    plant, found = DAMAGES[damage]
    plant(copy)
    assert kinds(check_run(copy, finished[1])) == found


def test_a_good_row_among_the_errors_is_found(finished, copy):
    row = pq.read_table(copy / DATA)[:1]
    rewrite(copy / DATA, lambda rows: rows.slice(1))
    rewrite(copy / ERRORS, lambda rows: pa.concat_tables([rows, with_column(row, "state", ["error"])]))
    assert kinds(check_run(copy, finished[1])) == {"blamed", "torn"}


def test_the_chaos_job_has_rows_of_all_kinds(tmp_path):
    wanted = expected_run(chaos_job(tmp_path, "local", 400))
    failing = {*range(36, 400, 37), 100, 300}
    assert {index for (_, index, _), state in wanted.states.items() if state == "error"} == failing
    rejected = {*range(10, 400, 11)} - failing
    assert {index for (_, index, _), state in wanted.states.items() if state == "rejected"} == rejected
    assert all(wanted.texts.values()) and len(wanted.texts) == 800 - 2 * len(failing | rejected)


def watched(run, wanted):
    return Watcher(run, wanted, random.Random(0))


def test_the_watcher_sees_every_row_of_a_whole_run(finished):
    with watched(*finished) as watcher:
        assert watcher.look() == 48
    assert (watcher.torn, watcher.forgotten) == ([], [])


TORN = {
    "half a file": (lambda run: (run / DATA).write_bytes((run / DATA).read_bytes()[:900]), "data/part-00001"),
    "no sibling yet": (lambda run: (run / ERRORS).unlink(), "errors/part-00001.parquet: missing"),
    "another sibling": (lambda run: flipped(run / ERRORS, 60), "not the content that was committed"),
    "not all rows": (lambda run: rewrite(run / DATA, lambda rows: rows.slice(1)), "1 rows are missing"),
    "a row twice": (lambda run: rewrite(run / DATA, lambda rows: pa.concat_tables([rows, rows[:1]])), "1 are too many"),
    "not a shard of the run": (lambda run: (run / DATA).rename(run / "data/part-00077.parquet"), "part-00077"),
}


@pytest.mark.parametrize("damage", TORN)
def test_the_watcher_finds_a_torn_shard_and_tells_it_once(finished, copy, damage):
    plant, words = TORN[damage]
    plant(copy)
    watcher = watched(copy, finished[1])
    assert (watcher.look(), watcher.look()) == (32, 32)
    assert len(watcher.torn) == 1 and words in watcher.torn[0]


def test_the_watcher_finds_a_shard_that_changes_or_goes_once_it_was_there(finished, copy):
    watcher = watched(copy, finished[1])
    watcher.look()
    rewrite(copy / DATA, first_changed("text", "no such text"))
    (copy / "data/part-00002.parquet").unlink()
    watcher.look()
    assert ["gone" in fault or "changed" in fault for fault in watcher.torn] == [True, True]
    assert len(watcher.forgotten) == 32


def record(rows):
    """A log's record, made here from what the format says."""
    payload = rows.combine_chunks().to_batches()[0].serialize().to_pybytes()
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


@pytest.fixture
def logged(finished, tmp_path):
    """A run whose shard 0 is in the log alone, in two records; (run, path of the log, the records)."""
    rows = pq.read_table(finished[0] / "data/part-00000.parquet")
    records = [record(rows[:10]), record(rows[10:])]
    log = tmp_path / "run" / "log" / "part-00000.arrows"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"".join(records))
    return tmp_path / "run", log, records


@pytest.mark.parametrize("tail", [b"\x07", struct.pack("<II", 100, 5) + b"half of it", bytes(4096), b"torn"])
def test_a_torn_end_of_a_log_is_no_damage(finished, logged, tail):
    run, log, records = logged
    log.write_bytes(records[0] + (tail if tail != b"torn" else records[1][:-1]))
    watcher = watched(run, finished[1])
    assert watcher.look() == 10 and not watcher.torn
    log.write_bytes(b"".join(records))
    assert watcher.look() == 16 and not watcher.forgotten


def test_rows_that_were_logged_and_are_gone_or_different_are_found(finished, logged):
    run, log, records = logged
    watcher = watched(run, finished[1])
    assert watcher.look() == 16
    log.write_bytes(records[0])
    watcher.look()
    assert len(watcher.forgotten) == 6 and all(fault.endswith("gone") for fault in watcher.forgotten)
    rows = pq.read_table(finished[0] / "data/part-00000.parquet")
    log.write_bytes(record(first_changed("text", "another text")(rows[:10])))
    watcher.look()
    assert len(watcher.forgotten) == 7 and watcher.forgotten[-1].endswith("not the same text")


def test_rows_that_move_from_the_log_into_a_shard_are_kept(finished, logged):
    run, log, _ = logged
    watcher = watched(run, finished[1])
    watcher.look()
    for folder in ("data", "rejected", "errors"):
        shutil.copytree(finished[0] / folder, run / folder)
    log.unlink()
    assert watcher.look() == 48 and (watcher.torn, watcher.forgotten) == ([], [])


def test_the_checker_reads_what_the_log_of_an_object_store_writes(finished, tmp_path):
    rows = pq.read_table(finished[0] / "data/part-00000.parquet", schema=ROW_SCHEMA)
    store = ShardStore("memory://chaos-log")
    log = open_row_log(store)
    for number, batch in enumerate(rows.to_batches(max_chunksize=5)):
        log.append(number, batch)
    log.close()
    (tmp_path / "rows-0.arrows").write_bytes(store.fs.cat_file(store.path(f"log/{store.list_names('log')[0]}")))
    store.fs.rm(store.root, recursive=True)
    assert sorted(read_logs(tmp_path).values()) == sorted(pc.cast(rows["text"], pa.string()).to_pylist())


def test_the_checker_reads_what_the_log_writes(finished, tmp_path):
    rows = pq.read_table(finished[0] / "data/part-00000.parquet", schema=ROW_SCHEMA)
    log = open_row_log(ShardStore(str(tmp_path)))
    for batch in rows.to_batches(max_chunksize=5):
        log.append(0, batch)
    log.close()
    assert sorted(read_logs(tmp_path / "log").values()) == sorted(pc.cast(rows["text"], pa.string()).to_pylist())


def test_the_journal_tells_which_rows_ran_again_and_which_of_them_needlessly(finished, tmp_path):
    wanted = finished[1]
    first, second, *_ = wanted.texts
    null = next(identity for identity, state in wanted.states.items() if state == "error")
    before = time.time()
    with (tmp_path / "journal").open("wb") as journal:
        for identity in (first, second, second, null, null):
            journal.write(journal_line("start", wanted.seeds[identity]) + journal_line("end", wanted.seeds[identity]))
    assert count_repeated_requests(tmp_path / "journal", wanted, {}) == (1, 0)
    assert count_repeated_requests(
        tmp_path / "journal", wanted, {second: ("", before - 1), null: ("", before - 1)}
    ) == (1, 2)


def sample(faults=(), **findings):
    found = {kind: [] for kind in (*asdict(Findings()), "forgotten", "left_behind")} | findings
    faults = [{"kind": kind, "victim": victim, "detail": detail} for kind, victim, detail in faults]
    return {"faults": faults, "runs": [{"findings": found, "started_needlessly": 0}]}


def test_goals_are_missed_where_something_was_found():
    kills = [("failpoint", "commit.data", ""), *[("kill", "driver", "")] * 3, ("second driver", "driver", "refused")]
    assert all(goal.met for goal in goals_of({"fake": sample(kills)}, 4, 0))

    def missed(faults, **findings):
        return [goal.name for goal in goals_of({"fake": sample(faults, **findings)}, 4, 0) if not goal.met]

    assert missed(kills[1:]) == ["kills", "share of them inside a commit"]
    assert missed([("failpoint", "log.half", ""), *kills[1:]]) == ["share of them inside a commit"]
    assert missed(kills, lost=["x"], left_behind=["y"]) == ["lost", "left behind"]
    assert missed([*kills, ("second driver", "driver", "0: done")]) == ["second drivers that were not refused"]
    assert missed([*kills, ("failure", "driver", "1: Traceback")]) == ["drivers that failed by themselves"]


def bench(tmp_path, *arguments, seconds):
    command = [sys.executable, "-m", "pipelines", "bench", *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=cli_env(), capture_output=True, text=True, timeout=seconds)
    document = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return document


def faults_of(document, engine):
    return Counter(fault["kind"] for fault in document["samples"][engine]["faults"])


@pytest.mark.slow
@pytest.mark.parametrize("programs", [(), ("--programs",)])
def test_a_short_chaos_run_loses_nothing(tmp_path, programs):
    arguments = ("--kills", 5, "--real-kills", 0, "--rows", 100, "--seed", 4, *programs)
    document = bench(tmp_path, "chaos", *arguments, seconds=400)
    kinds = faults_of(document, "fake")
    assert kinds["kill"] + kinds["failpoint"] in (5, 6)
    assert sum(fault["victim"] in COMMIT for fault in document["samples"]["fake"]["faults"]) == 2
    runs = document["samples"]["fake"]["runs"]
    assert sum(run["starts"] for run in runs) > len(runs) and all(run["rows"] == 200 for run in runs)
    assert sum(run["started_again"] for run in runs) > 0


@pytest.mark.slow
def test_a_real_engine_that_is_killed_loses_nothing(tmp_path):
    document = bench(tmp_path, "chaos", "--kills", 0, "--real-kills", 2, seconds=1500)
    assert faults_of(document, "embedded")["kill"] == 2
    assert all(run["rows"] == 168 for run in document["samples"]["embedded"]["runs"])


@pytest.mark.slow
def test_bench_determinism_compares_every_row(tmp_path):
    document = bench(tmp_path, "determinism", "--rows", 28, "--max-tokens", 16, seconds=900)
    same = document["samples"]["as it is"]
    assert set(same) == {"sampled", "greedy"} and document["goals"] == []
    for found in same.values():
        assert set(found) == {"again", "after a crash", "replicas", "order"}
        assert all(0 <= number <= 56 for number in found.values())


def test_the_proxy_of_the_store_disturbs_requests_and_no_write_is_torn():
    """An HTTP server in the place of moto's: what it was sent, and what the client saw."""
    applied = []

    class Server(BaseHTTPRequestHandler):
        def do_PUT(self):
            applied.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxy = object_store._Proxy(server.server_port, random.Random(0))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        seen = Counter()
        for number in range(60):
            proxy.draw_fault = lambda is_listing, number=number: (FAULTS[number % len(FAULTS)], 0.0)
            connection = http.client.HTTPConnection("127.0.0.1", proxy.server_port, timeout=10)
            before = len(applied)
            try:
                connection.request("PUT", "/bucket/key", f"content {number}".encode())
                answer = connection.getresponse()
                outcome = f"{answer.status} {len(answer.read())}"
            except (http.client.HTTPException, ConnectionError):
                outcome = "closed"
            connection.close()
            seen[FAULTS[number % len(FAULTS)], outcome.split()[0], len(applied) - before] += 1
        proxy.shutdown()
        server.shutdown()
    assert dict(seen) == {
        ("", "200", 1): 10, ("refused", "503", 0): 10, ("dropped", "closed", 0): 10, ("delayed", "200", 1): 10,
        ("answer lost", "closed", 1): 10, ("applied and refused", "503", 1): 10,
    }  # fmt: skip
    assert all(content.startswith(b"content ") for content in applied)


@pytest.mark.slow
def test_a_short_chaos_run_on_s3_loses_nothing(tmp_path):
    for name in ("moto", "flask", "s3fs"):
        pytest.importorskip(name)
    document = bench(tmp_path, "chaos", "--store", "s3", "--kills", 4, "--rows", 60, seconds=900)
    kinds = faults_of(document, "fake")
    assert kinds["kill"] + kinds["failpoint"] >= 4
    assert all(run["rows"] == 120 for run in document["samples"]["fake"]["runs"])
    assert document["settings"]["requests"]["all"] > 100

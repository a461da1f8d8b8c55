"""kindling preview on the fake engine: what it runs, what it leaves alone, and what it says of the whole job."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import augment, preview
from pipelines.previewing.estimates import CONFIDENCE
from pipelines.previewing.page import figures_of
from schemas.errors import EXIT_USAGE, JobError, RunError
from schemas.rows import ROW_SCHEMA
from services.storage.row_log import open_row_log
from services.storage.store import ShardStore
from tests.support.files import write_job, write_jsonl


def rows_of(run):
    return [row for batch in ShardStore(run).read_rows() for row in batch.to_pylist()]


def within(interval, value):
    return interval.low <= value <= interval.high


@pytest.fixture(scope="module")
def previewed(tmp_path_factory, ray_cluster):
    """A preview of 16 rows, and the whole job after it: (preview, run folder, what the preview left there)."""
    folder = tmp_path_factory.mktemp("previewed")
    rows = [{"context": f"Sentence number {number} is here.", "emotion": "joy"} for number in range(40)]
    write_jsonl(folder / "rows.jsonl", rows)
    job = {
        "name": "previewed",
        "input": {"path": "rows.jsonl"},
        "recipe": "babylm_story",
        "model": {"id": "fake"},
        "sampling": {"max_tokens": 32},
        "engine": {"max_num_seqs": 8},
        "cluster": {"cpus_per_replica": 1, "price_per_replica_hour": 3.6},
        "output": {"path": str(folder / "run")},
        "metrics": {"port": 0},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a row's seed goes with the name of its file, and so do the lengths that are forecast
        found = preview(job, rows=16)
        traces = list(folder.glob("run*"))
        augment(job)
    return found, str(folder / "run"), traces


def test_the_rows_are_those_of_the_job_and_nothing_is_written(previewed):
    found, run, traces = previewed
    assert traces == []
    written = {row["row_index"]: row for row in rows_of(run)}
    assert len(found.rows) == 16 and len({row.number for row in found.rows}) == 16
    for row in found.rows:
        same = written[row.row_index]
        assert (row.text, row.output_tokens, row.state) == (same["text"], same["output_tokens"], "accepted")
        assert f"Sentence number {row.row_index} is here." in row.messages[0]["content"]


def test_the_forecast_holds_what_the_job_came_to(previewed):
    found, run, _ = previewed
    forecast, rows = found.forecast, rows_of(run)
    assert (forecast.rows, forecast.done, forecast.confidence) == (40, 0, CONFIDENCE)
    assert forecast.prompt_tokens.value == pytest.approx(sum(row["prompt_tokens"] for row in rows), rel=0.02)
    assert within(forecast.output_tokens, sum(row["output_tokens"] for row in rows))
    assert within(forecast.accepted, 40) and forecast.accepted.low < 40
    # None of 16 was rejected, which does not say that none of the other 24 will be.
    assert forecast.rejected.value == forecast.errors.value == 0 and forecast.rejected.high > 1


def test_cost_is_the_price_of_the_replicas_hours(previewed):
    forecast = previewed[0].forecast
    assert forecast.cost.value == pytest.approx(forecast.wall_seconds.value / 1000)
    assert forecast.replica_hours.high == pytest.approx(forecast.wall_seconds.high / 3600)
    assert forecast.gpu_hours is None
    besides = forecast.start_seconds + forecast.stop_seconds
    assert forecast.wall_seconds.value == pytest.approx(forecast.serving_seconds.value + besides)


def test_of_more_rows_than_there_are_all_are_run_and_counted(fake_job, ray_cluster):
    found = preview(fake_job, rows=100)
    augment(fake_job)
    written = rows_of(fake_job["output"]["path"])
    forecast = found.forecast
    assert len(found.rows) == 40
    for interval, exact in (
        (forecast.accepted, 40),
        (forecast.rejected, 0),
        (forecast.output_tokens, sum(row["output_tokens"] for row in written)),
        (forecast.prompt_tokens, sum(row["prompt_tokens"] for row in written)),
    ):
        assert interval.low == pytest.approx(exact) == interval.high
    assert any("all rows that are left were run" in note for note in forecast.notes)


def test_of_a_run_that_is_partly_done_the_rest_is_forecast(fake_job, ray_cluster):
    augment(fake_job)
    run = Path(fake_job["output"]["path"])
    shard = run / "data" / "part-00002.parquet"
    logged = pq.read_table(shard).slice(0, 3).combine_chunks().cast(ROW_SCHEMA).to_batches()
    shard.unlink()
    log = open_row_log(ShardStore(str(run)))
    log.append(2, logged[0])
    log.close()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = preview(fake_job, rows=4)
    assert {row.row_index for row in found.rows} <= set(range(19, 24))
    assert (found.forecast.rows, found.forecast.done) == (5, 35)
    assert dict(figures_of(found.forecast))["rows left"] == "5, and 35 are done"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_an_engine_that_dies_costs_the_time_and_no_row(fake_job, ray_cluster):
    fake_job["engine"] = {"max_num_seqs": 4, "die_after_requests": 6}
    found = preview(fake_job, rows=10)
    assert len(found.rows) == 10 and {row.state for row in found.rows} == {"accepted"}
    assert found.forecast.serving_seconds is None and found.forecast.output_tokens
    assert any("an engine died" in note for note in found.forecast.notes)


def test_a_run_that_is_complete_or_of_another_job_is_refused(fake_job, ray_cluster):
    augment(fake_job)
    with pytest.raises(JobError) as complete:
        preview(fake_job)
    assert "complete" in complete.value.cause
    with pytest.raises(RunError) as other:
        preview({**fake_job, "seed": 1})
    assert "seed: 0 -> 1" in other.value.cause


def test_each_variant_of_a_sweep_has_its_share_of_the_rows(fake_job, ray_cluster, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = {**fake_job, "input": {"path": "contexts.jsonl"}, "sweep": {"max_tokens": [4, 32]}}
    found = preview(job, rows=16)
    variants = [row.variant for row in found.rows]
    assert {variants.count(each) for each in set(variants)} == {8}
    assert found.forecast.rows == 80
    augment(job)
    written = rows_of(fake_job["output"]["path"])
    assert within(found.forecast.output_tokens, sum(row["output_tokens"] for row in written))


def test_where_every_row_is_rejected_none_is_promised(fake_job, ray_cluster):
    found = preview({**fake_job, "recipe": "evaluation_prompts"}, rows=8)
    assert {(row.state, row.reason) for row in found.rows} == {("rejected", "no_tasks")}
    forecast = found.forecast
    assert forecast.rejected.value == 40 and 20 < forecast.rejected.low < 40
    assert forecast.accepted.value == 0 and 0 < forecast.accepted.high < 20
    assert forecast.output_tokens.value > 0


def test_rows_that_have_no_prompt_are_counted_without_an_engine(fake_job, tmp_path):
    write_jsonl(tmp_path / "contexts.jsonl", [{"context": None, "emotion": "joy"} for _ in range(30)])
    found = preview(fake_job, rows=8)
    assert found.rows == [] and found.refused == {"context is null": 30}
    forecast = found.forecast
    assert (forecast.errors.low, forecast.errors.high) == (30, 30)
    assert forecast.output_tokens is None and forecast.wall_seconds is None and forecast.cost is None


def test_the_error_for_too_few_rows_says_how_many(fake_job, kindling, tmp_path):
    done = kindling("preview", write_job(tmp_path / "job.yaml", fake_job), "-n", 1)
    assert done.returncode == EXIT_USAGE
    assert (
        done.stderr.startswith("error: -n = 1: ") and "give 2 or more" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_warm_pool_is_used_and_left(fake_job, ray_cluster):
    from pipelines import list_pools, start_pool, stop_pool

    start_pool({**fake_job, "cluster": {"replicas": 2, "cpus_per_replica": 1}})
    try:
        found = preview(fake_job, rows=4)
        (pool,) = list_pools()
        assert (pool.replicas, pool.jobs) == (2, 0)
    finally:
        stop_pool("fake")
    assert found.forecast.replicas == 2
    assert found.forecast.start_seconds < 2


def test_the_command_line_shows_rows_and_forecast_and_makes_a_page(fake_job, kindling, tmp_path, ray_cluster):
    job = write_job(tmp_path / "job.yaml", {**fake_job, "cluster": {"address": ray_cluster, "cpus_per_replica": 1}})
    shown = kindling("preview", job, "-n", 4, "--show", 1, "--to", "page.md")
    assert shown.returncode == 0, shown.stderr
    assert "Ctrl-C" not in shown.stderr, shown.stderr  # nobody asked it to stop
    assert "prompt, " in shown.stdout and "3 rows more" in shown.stdout and "with 90% intervals" in shown.stdout
    page = (tmp_path / "page.md").read_text()
    assert page.count("Sentence number") == 4 and "output tokens: " in page
    found = kindling("preview", job, "-n", 4, "--json")
    told = json.loads(found.stdout)
    assert (
        len(told["rows"]) == 4 and told["forecast"]["output_tokens"]["low"] < told["forecast"]["output_tokens"]["high"]
    )

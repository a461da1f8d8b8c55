"""What `--dry-run` says of a study, and which jobs may run side by side."""

import json

import pytest
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.study.forecast import forecast
from pipelines.study.plan import read_plan
from pipelines.study.record import new_record
from pipelines.study.reproduce import _Runner
from pipelines.study.resources import Resources, wanted_resources
from services.storage.store import ShardStore
from tests.pipelines.study.test_plan import corpus, write_study
from tests.support.files import write_jsonl

STORIES = {
    "recipe": "template",
    "model": "fake",
    "sampling": {"max_tokens": 50},
    "input": {"path": "rows.jsonl"},
    "samples": 2,
}


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"context": f"It is day {number}."} for number in range(10)])
    (tmp_path / "p.jinja").write_text("Go on: {{ context }}")
    (tmp_path / "prompts.json").write_text(json.dumps({"joy": ["Sing.", "Dance."], "grief": ["Why?"]}))
    write_jsonl(
        tmp_path / "pairs.jsonl",
        [{"sentence_good": f"He sees {n}.", "sentence_bad": f"He see {n}."} for n in range(30)],
    )
    student = {"kind": "clm", "parts": {"own": {"run": "${stories}"}}, "optimizer": {"epochs": 3}}
    return {
        "stories": STORIES | {"prompt": "p.jinja"},
        "more": STORIES | {"prompt": "p.jinja", "input": {"path": "${stories}/data", "limit": 4}},
        "open": STORIES | {"prompt": "p.jinja", "input": {"path": "${stories}/data"}},
        "student": {"model": "embedded", "stages": [student]},
        "words": {"model": "embedded", "stages": [student | {"words": 300}, student | {"words": 30}]},
        "evaluation": {
            "models": [{"id": "fake"}, {"path": "${student}"}],
            "evaluations": ["sentiment", "blimp"],
            "sentiment": {"prompts": "prompts.json"},
            "blimp": {"path": "pairs.jsonl", "paradigms": ["pairs"], "pairs_per_paradigm": 20},
            "sampling": {"max_tokens": 10},
        },
        "again": {"responses": {"path": "${evaluation}/r.json"}, "evaluations": ["sentiment"]},
    }


def forecast_of(tmp_path, jobs, **rates):
    plan = read_plan(write_study(tmp_path, jobs, rates=rates))
    return forecast(plan, list(plan.jobs))


def test_amounts_are_upper_bounds_and_what_is_not_known_is_said(tmp_path, jobs):
    found = forecast_of(tmp_path, jobs, output_tokens_per_second=10, training_tokens_per_second=100, price_per_hour=36)
    by_name = {job.name: job for job in found.jobs}
    assert (by_name["stories"].rows, by_name["stories"].tokens, by_name["stories"].seconds) == (20, 1000, 100)
    assert (by_name["more"].rows, by_name["more"].tokens) == (8, 400)
    assert by_name["open"].rows is None and by_name["open"].seconds is None
    assert (by_name["student"].tokens, by_name["student"].seconds) == (3000, 30)
    assert by_name["words"].tokens == (300 + 30) * 4 / 3 * 3
    evaluation = by_name["evaluation"]
    assert (evaluation.rows, evaluation.tokens, evaluation.pairs, evaluation.seconds) == (6, 60, 40, None)
    assert found.seconds is None and found.cost is None  # as long as one job's time is not known
    text = "\n".join(found.lines())
    assert "20 rows, 1,000 tokens" in text and "?" in text and "7 jobs left" in text
    del jobs["open"], jobs["evaluation"], jobs["again"]
    known = forecast_of(tmp_path, jobs, output_tokens_per_second=10, training_tokens_per_second=100, price_per_hour=36)
    assert known.seconds == 100 + 40 + 30 + 13.2 and known.cost == known.seconds / 100
    assert "1.83 at 36 an hour" in "\n".join(known.lines())


def test_the_words_of_training_files_are_counted(tmp_path, jobs):
    instructions = [{"instruction": "Say it again.", "input": "", "text": "It is a very fine day."}] * 40
    write_jsonl(tmp_path / "instructions.jsonl", instructions)
    part = {"rewrites": {"input": {"path": "instructions.jsonl"}}}
    jobs["tuned"] = {
        "model": "${student}",  # its data are here, though its model is not
        "stages": [{"kind": "sft", "parts": part, "optimizer": {"epochs": 3}}],
    }
    found = {job.name: job for job in forecast_of(tmp_path, jobs).jobs}
    assert found["tuned"].tokens == 40 * (3 + 6) * 4 / 3 * 3
    part["rewrites"]["input"]["path"] = "missing.jsonl"
    found = {job.name: job for job in forecast_of(tmp_path, jobs).jobs}
    assert found["tuned"].tokens is None and "missing.jsonl: no such file" in found["tuned"].fault


def test_a_job_that_cannot_start_is_named(tmp_path, jobs):
    jobs["stories"]["input"] = {"path": "missing.jsonl"}
    found = forecast_of(tmp_path, jobs)
    assert "missing.jsonl" in found.jobs[0].fault
    assert "fault     stories: input.path = missing.jsonl: no such file" in "\n".join(found.lines())
    study = write_study(tmp_path, jobs)
    page = CliRunner().invoke(app, ["reproduce", study, "--dry-run"])
    assert page.exit_code == 0 and "missing.jsonl" in page.stdout and not (tmp_path / "out").exists()


def test_the_resources_of_each_kind_of_job(tmp_path, jobs):
    jobs["more"]["cluster"] = {"replicas": 3, "cpus_per_replica": 2}
    jobs["large"] = STORIES | {"prompt": "p.jinja", "engine": {"tensor_parallel_size": 2}, "cluster": {"replicas": 2}}
    jobs["corpus"] = corpus("rows.jsonl")
    plan = read_plan(write_study(tmp_path, jobs))

    def wanted(total):
        return {name: wanted_resources(job, total) for name, job in plan.jobs.items()}

    cpu, gpu = wanted(Resources(0, 8)), wanted(Resources(4, 8))
    assert cpu["stories"] == cpu["student"] == cpu["evaluation"] == Resources(0, 8)
    assert cpu["more"] == Resources(0, 6) and cpu["corpus"] == gpu["corpus"] == Resources(0, 1)
    assert gpu["stories"] == gpu["student"] == gpu["evaluation"] == Resources(1, 0) and gpu["large"] == Resources(4, 0)


def test_jobs_run_side_by_side_where_there_is_room(tmp_path, jobs, monkeypatch):
    started = {}

    def start(planned, folder, address, devices):
        started[planned.name] = devices

    monkeypatch.setattr("pipelines.study.reproduce.JobProcess", start)
    free = {name: STORIES | {"prompt": "p.jinja"} for name in ("a", "b", "c", "d")}
    plan = read_plan(write_study(tmp_path, {**free, "corpus": corpus("rows.jsonl")}))

    def left_by(total):
        started.clear()
        store = ShardStore(str(tmp_path))
        return _Runner(plan, list(plan.jobs), new_record(plan, None), store, total, None)._start_ready(list(plan.jobs))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,7")
    assert left_by(Resources(0, 8)) == ["b", "c", "corpus", "d"] and started == {"a": None}
    assert left_by(Resources(3, 8)) == ["d"] and started == {"a": ["4"], "b": ["5"], "c": ["7"], "corpus": []}

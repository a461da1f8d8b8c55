"""`kindling check` and `kindling init`: what is known of a job without an engine, and a job file for a data file."""

import json
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from typer.testing import CliRunner

from pipelines import check
from pipelines.checking.new_job import new_job
from pipelines.cli.main import app
from pipelines.jobfile import load_any_job, load_job
from schemas.errors import JobError
from tests.support.files import ROOT, write_jsonl


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a CSV file in which every other reader is blank."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = [f'"Why, number {number}?",{"a child" if number % 2 else ""}' for number in range(20)]
    Path("q.csv").write_text("\n".join(["Question text,reader", *rows, ""]))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def job(**more):
    Path("p.jinja").write_text("Explain to {{ reader }}: {{ question }}")
    columns = {"question": "Question text"}
    return {
        "name": "q", "input": {"path": "q.csv", "columns": columns}, "recipe": "template", "prompt": "p.jinja",
        "output": "runs/q", **more,
    }  # fmt: skip


def test_a_data_file_becomes_a_job_that_passes_its_check(folder):
    assert run("init", "q.csv").exit_code == 0
    loaded = load_job("job.yaml")
    assert (loaded.name, loaded.recipe, loaded.input.columns) == ("q", "template", {"Question_text": "Question text"})
    result = run("check", "job.yaml", "-n", "1")
    assert result.exit_code == 0, result.stdout
    assert "0 of 20 that were looked at would be refused" in result.stdout
    assert "Question text: Why, number" in result.stdout
    assert not Path("runs").exists()


def test_a_ray_job_of_a_new_folder_uploads_no_runs(folder):
    assert "a Ray job does not upload runs/" in run("init", "q.csv").stdout
    assert Path(".rayignore").read_text() == (ROOT / ".rayignore").read_text()
    excludes = get_excludes_from_ignore_files(folder, include_gitignore=True)
    for path, is_left_out in {
        "runs/q/data/part-00000.parquet": True, "students/checkpoint-200/model.safetensors": True, "job.yaml": False,
        ".venv/bin/python": True, "q.csv": False, "pipelines/run_status/page.py": False,
    }.items():  # fmt: skip
        assert any(is_excluded(folder / path) for is_excluded in excludes) is is_left_out, path
    Path(".rayignore").write_text("mine")
    assert ".rayignore" not in run("init", "q.csv", "--to", "other.yaml").stdout
    assert Path(".rayignore").read_text() == "mine"


def test_init_writes_over_nothing(folder):
    Path("job.jinja").write_text("mine")
    result = run("init", "q.csv")
    assert isinstance(result.exception, JobError) and "exists already" in str(result.exception)
    assert Path("job.jinja").read_text() == "mine" and not Path("job.yaml").exists()


@pytest.mark.parametrize(
    ("row", "recipe", "columns"),
    [
        ({"instruction": "Say.", "input": "", "output": "Hm.", "emotion": "joy"}, "alpaca_rewrite", {}),
        ({"sentence": "It rains.", "labels": ["sadness", "fear"]}, "babylm_story",
         {"context": "sentence", "emotion": "labels"}),
        ({"chat": [{"role": "user", "content": "Hello"}]}, "messages", {"messages": "chat"}),
        ({"class": "a", "2nd": "b"}, "template", {"column_class": "class", "column_2nd": "2nd"}),
        ({"text": "It rains.", "label": "weather"}, "template", {}),
        ({"a b": "x", "a_b": "y", "none": "z"}, "template", {"a_b_2": "a b", "column_none": "none"}),
    ],
)  # fmt: skip
def test_the_recipe_fits_the_columns(folder, row, recipe, columns):
    more = ["the river is wide", "my old car broke down", "seven geese fly south"]  # else they are near duplicates
    rows = [{**row, "instruction": text, "output": text} if "output" in row else row for text in more]
    write_jsonl(folder / "data.jsonl", rows)
    proposed = new_job("data.jsonl")
    for path, text in proposed.files.items():
        Path(path).write_text(text)
    loaded = load_job("job.yaml")
    assert (loaded.recipe, loaded.input.columns) == (recipe, columns)
    checked = check(loaded)
    assert checked.can_start and checked.refused == {} and len(checked.prompts) == 3


def test_a_file_without_rows_gets_no_job(folder):
    Path("empty.csv").write_text("a,b\n")
    with pytest.raises(JobError, match="no rows"):
        new_job("empty.csv")


def test_refused_rows_are_counted_by_reason_and_many_are_a_warning(folder):
    checked = check(job())
    assert (checked.looked_at, checked.refused) == (20, {"reader is blank": 10})
    (rows,) = (finding for finding in checked.findings if finding.topic == "rows")
    assert rows.state == "warning"
    assert len(checked.prompts) == 3 and checked.can_start


def test_a_job_whose_rows_are_all_refused_cannot_start(folder):
    Path("q.csv").write_text("Question text,reader\nWhy?,\nHow?,\n")
    Path("job.json").write_text(json.dumps(job()))
    result = run("check", "job.json", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["refused"] == {"reader is blank": 2} and not report["can_start"]
    assert "2 of 2: reader is blank" in run("check", "job.json").stdout


@pytest.mark.parametrize(
    ("change", "topic", "text"),
    [
        ({"model": "./nowhere"}, "model", "no such folder"),
        ({"cluster": {"replicas": 2, "gpus_per_replica": 1}}, "devices", "2 replicas want 2 GPUs, and 0 are here"),
    ],
)
def test_what_is_not_there_is_a_fault(folder, change, topic, text):
    checked = check(job(**change))
    (finding,) = (finding for finding in checked.findings if finding.state == "fault")
    assert finding.topic == topic and text in finding.text and finding.remedy
    assert not checked.can_start


def test_prompts_that_may_not_fit_are_a_warning(folder):
    checked = check(job(engine={"max_model_len": 100}, sampling={"max_tokens": 96}))
    (finding,) = (finding for finding in checked.findings if finding.topic == "prompts")
    assert finding.state == "warning" and "engine.max_model_len = 100" in finding.text


def test_the_kind_of_a_job_is_seen_from_its_keys(folder):
    stages = "stages: [{kind: clm, parts: {a: {input: x.txt}}}]"
    Path("t.yaml").write_text(f"name: t\nmodel: embedded\n{stages}\noutput: runs/t\n")
    verb, loaded = load_any_job("t.yaml")
    assert verb == "train" and loaded.output.path == "runs/t"


PARTS = {
    "stages.0.parts.a.input.path = none.txt": "{kind: clm, parts: {a: {input: none.txt}}}",
    "stages.0.parts.a.input.path = blank.txt: the input has no rows": "{kind: clm, parts: {a: {input: blank.txt}}}",
    "stages.0.parts.a.run = runs/none: the folder has no run.json": "{kind: clm, parts: {a: {run: runs/none}}}",
    "stages.0.parts.b.input.columns": "{kind: sft, parts: {b: {input: q.csv}}, prompt: [question], completion: reader}",
    "stages.0.parts.b: row 0 of q.csv: reader is blank": "{kind: sft, parts: {b: {input: {path: q.csv, limit: 1}}}, "
    "prompt: [Question text], completion: reader}",
    "stages.0.replay.r.input.path = none.txt": "{kind: sft, parts: {b: {input: q.csv}}, prompt: [Question text], "
    "completion: reader, replay: {r: {input: none.txt}}}",
    "stages.0.data.train = none.csv": "{kind: classifier, data: {train: none.csv}}",
}


@pytest.mark.parametrize("fault", PARTS)
def test_the_data_of_a_training_is_opened_and_each_fault_named(folder, fault):
    Path("blank.txt").write_text("\n")
    Path("t.yaml").write_text(f"name: t\nmodel: embedded\nstages: [{PARTS[fault]}]\noutput: runs/t\n")
    checked = run("check", "t.yaml")
    assert checked.exit_code == 1 and f"fault    data        {fault}" in checked.stdout, checked.stdout
    assert "remedy: " in checked.stdout and not Path("runs").exists()


def test_a_training_whose_data_is_there_can_start(folder):
    Path("x.txt").write_text("One document here.\nAnd another.\n")
    sft = "{kind: sft, parts: {b: {input: q.csv}}, prompt: [Question text], completion: reader}"
    stages = f"stages: [{{kind: clm, parts: {{a: {{input: x.txt}}}}}}, {sft}]"
    Path("t.yaml").write_text(f"name: t\nmodel: embedded\n{stages}\noutput: runs/t\n")
    checked = run("check", "t.yaml")
    assert checked.exit_code == 0 and "valid job file of `kindling train`" in checked.stdout
    assert "ok       data        stages.0.parts.a: 2 documents, 5 words" in checked.stdout
    assert "stages.1.parts.b: 10 rows; 10 cannot be read: row 0 of q.csv: reader is blank" in checked.stdout
    told = json.loads(run("check", "t.yaml", "--json").stdout)
    assert told["verb"] == "train" and told["can_start"] and {each["state"] for each in told["findings"]} == {"ok"}


@pytest.mark.parametrize(
    ("verb", "text", "fault"),
    [
        ("compose", "name: c\nwords: 10\nparts: {a: {input: none.txt}}\noutput: runs/c\n", "parts.a.input.path"),
        ("compose", "name: c\nwords: 10\nparts: {a: {input: q.csv, words: 20}}\noutput: runs/c\n", "words = 10"),
        ("label", "name: l\ninput: none.txt\noutput: runs/l\n", "input.path = none.txt"),
    ],
)
def test_the_data_of_other_jobs_is_opened_too(folder, verb, text, fault):
    Path("j.yaml").write_text(text)
    checked = run("check", "j.yaml")
    assert checked.exit_code == 1 and f"valid job file of `kindling {verb}`" in checked.stdout
    assert fault in checked.stdout, checked.stdout


def test_a_job_of_label_needs_no_key_of_its_own(folder):
    Path("l.yaml").write_text("name: l\ninput: raw.txt\noutput: runs/l\n")
    assert load_any_job("l.yaml")[0] == "label"
    Path("a.yaml").write_text("name: a\ninput: q.csv\nmodel: fake\noutput: runs/a\n")
    with pytest.raises(JobError, match="recipe"):
        load_any_job("a.yaml")


def test_a_prompt_file_is_not_written_over_its_job(folder):
    with pytest.raises(JobError, match="the prompt file beside the job"):
        new_job("q.csv", "job.jinja")


def test_short_forms_are_sections(folder):
    Path("short.yaml").write_text("name: q\ninput: q.csv\nrecipe: babylm_story\nmodel: fake\noutput: runs/q\n")
    Path("full.yaml").write_text(
        "name: q\ninput: {path: q.csv}\nrecipe: babylm_story\nmodel: {id: fake}\noutput: {path: runs/q}\n"
    )
    short, full = load_job("short.yaml"), load_job("full.yaml")
    assert short == full
    with pytest.raises(JobError, match="set the value itself"):
        load_job("short.yaml", ["output.path=runs/other"])

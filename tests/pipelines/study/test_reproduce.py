"""Studies that are run: what is done is not done again, a killed job goes on, a failed one leaves the others alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars
import pytest
import yaml
from typer.testing import CliRunner

from pipelines import reproduce, runs, status, verify
from pipelines.cli.main import app
from schemas.errors import JobError, RunError
from tests.pipelines.study.test_plan import corpus, write_study
from tests.support.files import ROOT
from tests.support.processes import cli_env, finished_rows, gone, wait_for


@pytest.fixture
def study(tmp_path):
    """A study of three corpora: `b` is made of `a`, and `c` of a file that is missing."""
    (tmp_path / "rows.txt").write_text("\n\n".join(f"This is text number {number}." for number in range(40)))
    jobs = {
        "a": corpus(str(tmp_path / "rows.txt")),
        "b": corpus("${a}/data", words=50),
        "c": corpus(str(tmp_path / "missing.txt")),
        "d": corpus("${c}/data"),
    }
    return write_study(tmp_path, jobs)


def test_jobs_run_in_their_order_and_what_is_done_is_not_done_again(study, tmp_path):
    first = reproduce(study)
    assert first.states == {"a": "done", "b": "done", "c": "failed", "d": "waiting"}
    assert "missing.txt" in first.errors["c"] and "remedy: " in first.errors["c"] and not first.complete
    folder = Path(first.study)
    assert polars.read_parquet(folder / "b/data/*.parquet")["text"].str.split(" ").list.len().sum() <= 50
    page = status(str(folder))
    assert [job.state for job in page.jobs] == ["complete", "complete", "failed", "waiting"] and page.state == "failed"
    assert [run.run for run in runs(str(tmp_path))] == [str(folder)]  # and not each of its jobs
    # A job file that can be run alone; a missing file that is there now; and nothing else is started.
    assert yaml.safe_load((folder / "jobs/b.yaml").read_text())["parts"]["own"]["input"] == f"{folder}/a/data"
    (tmp_path / "missing.txt").write_text("It came late.\n\nAnd here is more.")
    before = {name: (folder / name / "composition.json").stat().st_mtime_ns for name in "ab"}
    second = reproduce(study)
    assert second.complete and second.errors == {} and first.report is None
    assert "small" in Path(second.report).read_text() and (folder / "report.md").is_file()
    assert before == {name: (folder / name / "composition.json").stat().st_mtime_ns for name in "ab"}
    record = json.loads((folder / "study.json").read_text())
    assert [job["starts"] for job in record["jobs"].values()] == [1, 1, 2, 1]
    assert status(str(folder)).state == "complete"
    # Files that have changed start the job again, which refuses to write over what was made of the old ones.
    (tmp_path / "rows.txt").write_text("Another text.")
    third = reproduce(study)
    assert third.states["a"] == "failed" and third.states["b"] == "done"
    assert f"move {folder}/a away" in third.errors["a"]


def test_a_choice_needs_what_is_done_or_chosen(study):
    with pytest.raises(JobError, match=r"jobs = b: it needs the output of a, which is not done\n.*--only a"):
        reproduce(study, only=["b"])
    assert reproduce(study, only=["a"]).states == {"a": "done", "b": "waiting", "c": "waiting", "d": "waiting"}
    assert reproduce(study, start="b").states["b"] == "done"
    done = CliRunner().invoke(app, ["reproduce", study, "--dry-run", "--json", "--only", "b"])
    assert json.loads(done.stdout)["jobs"][0]["is_done"] is True


def test_a_folder_of_something_else_is_refused(study, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text("{}")
    with pytest.raises(RunError, match="belongs to a job of `kindling augment`"):
        reproduce(study)
    (tmp_path / "out/run.json").unlink()
    (tmp_path / "out/study.json").write_text("{}")
    with pytest.raises(RunError, match="it is no record of a study"):
        reproduce(study)


TINY = {
    "jobs.stories.input": "{path: pipelines/data/demo_corpus.jsonl}",
    "jobs.stories.model": "fake",
    "jobs.stories.samples": "2",
    "jobs.baby.model": "{id: embedded, from_config: {layers: 1, heads: 2, width: 32, context: 256}}",
    "jobs.baby.stages.0.max_length": "48",
    "jobs.evaluation.models": "[{path: '${baby}', name: baby}]",
    "jobs.evaluation.evaluations": "[blimp]",
}
"""`--set` for the pocket study: no real engine, one student, and nothing that it answers"""


def tiny_pocket(output, **more):
    """The command of the pocket study at a tiny size, from stories to grammar."""
    options = [f"--set={key}={value}" for key, value in (TINY | more | {"output": str(output)}).items()]
    chosen = [f"--only={name}" for name in ("stories", "baby", "evaluation")]
    return [sys.executable, "-m", "pipelines", "reproduce", "deploy/studies/pocket.yaml", *options, *chosen]


def children_of(process):
    return [int(line) for line in os.popen(f"pgrep -P {process.pid}").read().split()]


def started(command):
    return subprocess.Popen(command, cwd=ROOT, env=cli_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_pocket_study_at_a_tiny_size_goes_on_after_a_job_was_killed(tmp_path):
    output = tmp_path / "pocket"
    process = started(tiny_pocket(output))
    # The log is there a moment before the process that writes it.
    wait_for(lambda: (output / "jobs/stories.log").is_file() and children_of(process), seconds=200)
    (child,) = children_of(process)
    os.kill(child, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert "stories: its process was killed (SIGKILL); it starts again" in errors
    states = {job.name: job.state for job in status(str(output)).jobs}
    assert [states[name] for name in ("stories", "baby", "evaluation")] == ["complete"] * 3
    assert finished_rows(str(output / "stories")) == 32 and verify(str(output / "stories")).faults == []


@pytest.mark.slow
def test_jobs_of_a_killed_study_end_and_the_same_command_goes_on(tmp_path):
    output, command = tmp_path / "pocket", tiny_pocket(tmp_path / "pocket")
    process = started(command)
    wait_for(lambda: finished_rows(str(output / "stories")))
    children = children_of(process)
    process.kill()
    process.communicate()
    assert children and gone(children, seconds=60)
    kept = finished_rows(str(output / "stories"))
    assert kept
    process = started(command)
    wait_for(lambda: (output / "jobs/evaluation.log").is_file(), seconds=300)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75 and "resume with: kindling reproduce" in errors, errors[-3000:]
    assert status(str(output)).state == "stopped"
    process = started(command)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "evaluation: done" in errors and "stories" not in errors, errors[-3000:]


@pytest.mark.slow
def test_the_papers_study_runs_with_tiny_models_in_place_of_its_own(tmp_path):
    output = tmp_path / "paper"
    tiny = "{id: embedded, from_config: {layers: 1, heads: 2, width: 32, context: 256}}"
    options = {
        "output": str(output),
        "jobs.contexts.input": "pipelines/data/demo_raw/*.train",
        "jobs.contexts.classifier": "embedded",
        "jobs.tasks.model": "fake",
        "jobs.tasks.samples": "1",
        # The words of a simulated engine are no tasks, and it answers no prompt.
        "jobs.evaluation.sentiment": "{prompts: pipelines/data/evaluation_prompts.json}",
        "jobs.evaluation.preference": "{prompts: pipelines/data/evaluation_prompts.json}",
        "jobs.evaluation.evaluations": "[blimp, logit_lens]",
        "jobs.evaluation.blimp": "{path: pipelines/data/minimal_pairs, paradigms: [binding, quantifiers]}",
    }
    for name in ("stories-p1", "stories-p2", "stories-p3"):
        options |= {f"jobs.{name}.model": "fake", f"jobs.{name}.input.limit": "20"}
    for name in ("rewrites-v1", "rewrites-v2", "rewrites-v3", "temperatures"):
        rows = "{path: pipelines/data/demo_instructions.jsonl, limit: 20}"
        options |= {f"jobs.{name}.model": "fake", f"jobs.{name}.input": rows}
    students = [f"gpt2{size}-{data}" for size in ("", "-medium") for data in ("baby", "instr", "baby-instr")]
    for name in students:
        options |= {f"jobs.{name}.model": tiny, f"jobs.{name}.precision": "fp32"}
        for stage in range(1 + name.endswith("baby-instr")):
            key = f"jobs.{name}.stages.{stage}"
            options |= {f"{key}.max_length": "48", f"{key}.dev": "0.3", f"{key}.optimizer": "{max_steps: 2}"}
        if "baby" in name:
            wikipedia = "{input: {path: pipelines/data/demo_raw/articles.train, format: text}, words: 50}"
            options[f"jobs.{name}.stages.0.parts.wikipedia"] = wikipedia
    models = ["{id: embedded, name: base}", *(f"{{path: '${{{name}}}', name: {name}}}" for name in students)]
    options["jobs.evaluation.models"] = f"[{', '.join(models)}]"
    sets = [f"--set={key}={value}" for key, value in options.items()]
    process = started([sys.executable, "-m", "pipelines", "reproduce", "deploy/studies/paper.yaml", *sets])
    _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors[-3000:]
    page = status(str(output))
    assert page.state == "complete" and len(page.jobs) == 16
    report = (output / "report.md").read_text()
    assert "gpt2-medium-baby-instr" in report and "Not run: it needs an evaluation sentiment" in report

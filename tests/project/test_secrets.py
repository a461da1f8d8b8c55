"""A planted secret is found in nothing that a job writes: files, messages, errors, Ray's logs."""

import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import stats
from pipelines.jobfile import as_job, load_job
from schemas.errors import JobError, RunError, StoppedError
from schemas.job import Input
from services.observability import logs
from tests.support.files import ROOT, write_job

SECRET = "hunter2-do-not-write"


def test_a_planted_secret_is_written_nowhere(fake_job, tmp_path, kindling, ray_cluster, monkeypatch):
    import ray

    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    fake_job["input"]["storage_options"] = {"secret": SECRET}
    done = kindling("augment", write_job(tmp_path / "job.yaml", fake_job))
    assert done.returncode == 0, done.stderr
    run = Path(fake_job["output"]["path"])
    told = [done.stdout, done.stderr, *(kindling(verb, run).stdout for verb in ("status", "verify"))]
    told += [str(pq.read_table(file).to_pylist()) + str(pq.read_schema(file)) for file in run.glob("*/*.parquet")]
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")
    told += [file.read_bytes().decode(errors="replace") for file in _files(run, logs)]
    assert len(told) > 20 and "storage_options" in "".join(told)
    assert not [text for text in told if SECRET in text]


def _files(*folders):
    return [Path(at, name) for folder in folders for at, _, names in os.walk(folder) for name in names]


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("input", {"path": f"https://user:{SECRET}@example.invalid/x.jsonl"}),
        ("input", {"path": [f"https://example.invalid/x.jsonl?X-Amz-Signature={SECRET}"]}),
        ("input", {"path": f"abfs://box/x.parquet?sv=1&sig={SECRET}"}),
        ("input", {"path": f"simplecache::https://user:{SECRET}@example.invalid/x.jsonl"}),
        ("input", {"path": f"https://{SECRET}@example.invalid/x.jsonl"}),
        ("output", {"path": f"https://user:{SECRET}@example.invalid/run"}),
        ("model", {"id": "fake", "token": SECRET}),
        ("engine", {"hf_token": SECRET}),
        ("input", {"path": "x.jsonl", "storage_option": {"key": SECRET}}),
        ("input", {"path": "x.jsonl", "storage_options": SECRET}),
        ("input", {"path": "x.jsonl", "storage_options": [SECRET]}),
    ],
)
def test_a_secret_where_it_would_be_written_is_refused_and_not_repeated(fake_job, tmp_path, kindling, section, value):
    refused = kindling("augment", write_job(tmp_path / "job.yaml", {**fake_job, section: value}))
    assert refused.returncode == 2 and "remedy" in refused.stderr, refused.stderr
    assert SECRET not in refused.stdout + refused.stderr
    assert not Path(fake_job["output"]["path"]).exists()


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("input", {"path": f"https://example.invalid/x.jsonl?private_token={SECRET}"}),
        ("input", {"path": f"https://example.invalid/x.jsonl?ref=main;key={SECRET}"}),
        ("input", {"path": f"https://example.invalid/x.jsonl?{SECRET}"}),
        ("input", {"path": [f"https://example.invalid/x.jsonl?raw=1#{SECRET}"]}),
        ("input", {"path": f"webhdfs://host/x.jsonl?delegation={SECRET}"}),
        ("input", {"path": f"filecache::abfs://box/x.jsonl#password={SECRET}"}),
        ("input", {"dataset": f"https://user:{SECRET}@example.invalid/set"}),
        ("output", {"path": f"s3://bucket/run?password={SECRET}"}),
        ("model", {"id": f"https://example.invalid/model?t={SECRET}"}),
        ("classifier", {"id": f"https://{SECRET}@example.invalid/model"}),
        ("cluster", {"address": f"ray://host:10001?token={SECRET}"}),
        ("engine", {"model_loader_extra_config": {"aws_secret_access_key": SECRET}}),
        ("engine", {"hf_overrides": [{"auth-token": SECRET}]}),
        ("engine", {"download_dir": f"https://example.invalid/x?k={SECRET}"}),
    ],
)
def test_any_part_of_a_url_and_any_key_that_may_hold_a_secret_is_refused(fake_job, section, value):
    with pytest.raises(JobError) as raised:
        as_job({**fake_job, section: value})
    assert SECRET not in str(raised.value) + str(raised.value.log_fields()) and "secret" in raised.value.cause
    assert raised.value.key.startswith(section)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://u:{SECRET}@h/x: no such file", "https://...@h/x: no such file"),
        (f"['https://h/x?raw=1&job_token={SECRET}#{SECRET}', 2]", "['https://h/x?raw=1&job_token=...#...', 2]"),
        (f"simplecache::https://h/x?sig={SECRET}", "simplecache::https://h/x?sig=..."),
        ("s3://bucket/part-?.jsonl and http://127.0.0.1:9400/metrics", None),
    ],
)
def test_messages_show_urls_without_their_secrets(text, shown, capsys):
    error = RunError("RUN", None, text, "name another")
    assert (
        str(error) == f"RUN: {shown or text}\n  remedy: name another" and error.log_fields()["cause"] == shown
    ) or text
    logs.report(text)
    assert capsys.readouterr().err == f"{shown or text}\n"


def test_a_url_with_a_secret_on_the_command_line_is_opened_by_no_verb():
    with pytest.raises(JobError, match="its parameter private_token may be a secret") as raised:
        stats(f"https://example.invalid/rows.jsonl?private_token={SECRET}")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/part-?.jsonl", "s3://b/rows #1.jsonl", "https://h/x.csv?raw=true", "hf://datasets/a@main/x?revision=b",
     "rows?token=1.jsonl"],
)  # fmt: skip
def test_what_carries_no_permission_may_stand_in_a_url(url):
    assert Input(path=url).path == url


@pytest.mark.parametrize("url", ["sftp://user@host/rows.jsonl", "abfs://box@account.dfs.core.windows.net/rows.jsonl"])
def test_a_name_that_is_no_secret_may_stand_in_a_url(url):
    assert Input(path=url).path == url


@pytest.mark.parametrize("value", ["@{}", "[{}", "{}\0"])
def test_an_override_that_is_wrong_is_told_without_its_secret(value):
    override = f"input.storage_options.secret={value.format(SECRET)}"
    with pytest.raises(JobError) as raised:
        load_job(str(ROOT / "deploy" / "jobs" / "demo.yaml"), [override])
    assert SECRET not in str(raised.value)
    assert "storage_options" in str(raised.value)


def test_the_command_to_resume_with_repeats_no_secret(monkeypatch, capsys):
    from pipelines.cli import main as cli

    arguments = ["augment", "job.yaml", "--set", f"input.storage_options.secret={SECRET}", "--set", "samples=2"]
    arguments += ["--set", f"engine.hf_token={SECRET}", "--set", f"input.path=https://h/x?key={SECRET}"]
    monkeypatch.setattr(sys, "argv", ["kindling", *arguments])
    with pytest.raises(SystemExit):
        cli._end(StoppedError("", None, "by a signal", "the same command resumes"))
    told = capsys.readouterr().err
    assert SECRET not in told
    assert "samples=2" in told

"""Runs of a reasoning model: its thoughts have a column of their own, and the rules see its answers alone."""

import json

import pyarrow.parquet as pq
import pytest

from pipelines import augment, status, verify
from pipelines.jobfile import as_job
from schemas.errors import JobError, RunError
from schemas.outcomes import UNFINISHED_REASONING
from schemas.rows import ROW_SCHEMA


@pytest.fixture
def reasoning_job(fake_job):
    fake_job["engine"]["reasoning_parser"] = "fake"
    fake_job["sampling"] = {"max_tokens": 48}
    return fake_job


def rows_in(run, folder):
    tables = [pq.read_table(path) for path in sorted((run / folder).glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()], tables


def test_thoughts_have_a_column_of_their_own(reasoning_job, tmp_path):
    summary = augment(reasoning_job)
    run = tmp_path / "run"
    accepted, tables = rows_in(run, "data")
    rejected, _ = rows_in(run, "rejected")
    assert verify(summary.run).faults == [] and accepted and rejected
    assert all(table.schema.names == [*ROW_SCHEMA.names, "reasoning"] for table in tables)
    for row in accepted:
        assert row["reasoning"] and row["reasoning"] not in row["text"]
        assert row["output_tokens"] == len(f"{row['reasoning']} {row['text']}".split())
    for row in rejected:  # 48 words of thoughts are no answer
        assert (row["text"], row["reason"], len(row["reasoning"].split())) == ("", UNFINISHED_REASONING, 48)
    assert status(summary.run).rejects == {UNFINISHED_REASONING: len(rejected)}
    assert json.loads((run / "run.json").read_text())["identity"]["columns"] == "reasoning"
    with pytest.raises(RunError, match="other columns"):
        augment({**reasoning_job, "engine": {"max_num_seqs": 8}}, retry="rejected")


def test_unfinished_thoughts_are_tried_again(reasoning_job, tmp_path):
    summary = augment({**reasoning_job, "quality": {"max_tries": 3, "max_words": 30}})
    tries, _ = rows_in(tmp_path / "run", "tries")
    assert verify(summary.run).faults == []
    unfinished = [row for row in tries if row["reason"] == UNFINISHED_REASONING]
    assert unfinished and all(len(row["reasoning"].split()) == 48 and not row["text"] for row in unfinished)
    # The limit of words counts those of the answer.
    accepted, _ = rows_in(tmp_path / "run", "data")
    assert any(row["output_tokens"] > 30 for row in accepted)


@pytest.mark.parametrize("where", ["sampling", "generations"])
def test_a_budget_of_thoughts_needs_a_parser(fake_job, where):
    sampling = {"thinking_token_budget": 8}
    change = {"sampling": sampling} if where == "sampling" else {"generations": [{"name": "a", "sampling": sampling}]}
    with pytest.raises(JobError, match=r"give engine\.reasoning_parser"):
        as_job({**fake_job, **change})


def test_a_job_without_a_parser_keeps_its_columns(fake_job):
    job = as_job(fake_job)
    assert not job.has_reasoning and "thinking_token_budget" not in job.model_dump()["sampling"]

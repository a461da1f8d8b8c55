"""Outcomes of rows are counted, and shown with their reasons: on the page and the card, as metrics, by exit code."""

import json
import logging
from collections import Counter
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from pipelines.augmentation.first_rows import FirstRows, refuse_rows_without_prompts
from pipelines.augmentation.plan import variant_settings
from pipelines.augmentation.progress import AugmentProgress
from pipelines.augmentation.summary import Summary
from pipelines.cli.main import app
from pipelines.inputs.reader import InputReader
from pipelines.publishing.card_header import DataFiles
from pipelines.publishing.dataset_card import dataset_card
from pipelines.recipes import all_fields, make_recipes, optional_fields
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job import Input
from schemas.outcomes import OTHER_REASONS, Outcomes, error_group
from schemas.rows import ACCEPTED, ERROR, REJECTED, FinishedRows, WorkRow, to_batch
from schemas.run import InputSource
from services.observability.series import AugmentMetrics
from tests.support.files import write_jsonl
from tests.support.runs import record, run_of


def rows(*changes):
    return to_batch([{**record(i, each.get("state", ACCEPTED)), **each} for i, each in enumerate(changes)])


CUT = {"finish_reason": "length"}


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        ("the prompt has 3000 tokens, at most 2,048 fit", "the prompt has N tokens, at most N fit"),
        ("the template p3.jinja failed on this row: 1.5 of v2", "the template p3.jinja failed on this row: N of v2"),
        ("request 8f14e45fceea167a at 0x7f3a12", "request N at N"),
        ("id 123e4567-e89b-12d3-a456-426614174000 is gone", "id N is gone"),
        ("two\nlines  and \t blanks", "two lines and blanks"),
    ],
)  # fmt: skip
def test_numbers_and_ids_do_not_make_a_reason_of_their_own(reason, group):
    assert error_group(reason) == group


def test_outcomes_count_states_cut_off_texts_and_reasons():
    outcomes = Outcomes.of(
        rows(
            {}, CUT, {**CUT, "state": REJECTED, "reason": "cut_off"},
            {"state": REJECTED, "reason": "near_duplicate of row 7 of a.json"},
            {"state": ERROR, "reason": "message 1 is int"}, {"state": ERROR, "reason": "message 12 is int"},
        )
    )  # fmt: skip
    assert outcomes.counts == {ACCEPTED: 2, REJECTED: 2, ERROR: 2} and outcomes.cut_off == 1
    assert outcomes.rejects == {"cut_off": 1, "near_duplicate": 1} and outcomes.errors == {"message N is int": 2}


def test_reasons_that_are_as_many_as_the_rows_are_counted_together():
    outcomes, metrics = Outcomes(), AugmentMetrics("r")
    progress = AugmentProgress(run_of(100), metrics)
    for number in range(200):
        batch = rows({"state": ERROR, "reason": f"unknown label {'x' * number}"})
        outcomes.add(Outcomes.of(batch))
        progress.on_rows(batch)
    assert outcomes.errors.total() == 200 and outcomes.errors[OTHER_REASONS] == 150
    series = [sample for family in metrics.registry.collect() for sample in family.samples]
    errors = {s.labels["reason"]: s.value for s in series if s.name == "kindling_errors_total"}
    assert errors == outcomes.errors and len(errors) == 51


def test_a_job_warns_once_when_a_tenth_of_its_rows_failed(caplog):
    progress = AugmentProgress(run_of(100), AugmentMetrics("r"))
    with caplog.at_level(logging.WARNING, "kindling"):
        progress.on_rows(rows(*[{}] * 89, *[{"state": ERROR, "reason": "context is blank"}] * 9))
        progress.warn_of_failures()
        assert caplog.messages == []  # 98 rows tell too little while the job runs
        progress.on_rows(rows({"state": ERROR, "reason": "context is blank"}, {}))
        progress.warn_of_failures()
        progress.warn_of_failures(min_rows=1)
    (message,) = caplog.messages
    assert "10 of 100 rows failed (10%)" in message and "10 x context is blank" in message


def test_few_failures_are_no_warning(caplog):
    progress = AugmentProgress(run_of(100), AugmentMetrics("r"))
    with caplog.at_level(logging.WARNING, "kindling"):
        progress.on_rows(rows(*[{}] * 10, {"state": ERROR, "reason": "context is blank"}))
        progress.warn_of_failures(min_rows=1)
    assert caplog.messages == []


def test_the_card_has_the_share_of_cut_off_texts_and_the_reasons():
    run = run_of(
        1, job={"model": {"id": "m", "revision": None}, "recipe": "r", "prompt": None, "sampling": {}, "seed": 0}
    )
    outcomes = Outcomes(Counter({ACCEPTED: 40, REJECTED: 3, ERROR: 2}), 10, Counter(url=3), Counter({"a `b` | c": 2}))
    card = dataset_card(run, outcomes, DataFiles({"train": "data/*.parquet"}, "digest", 3))
    assert "| of these, cut off at max_tokens | 10 (25.0%) |" in card
    assert "| rows rejected | 3: 3 x `url` |" in card and r"| rows that failed | 2: 2 x ``a `b` \| c`` |" in card


# The command line


def summary(**changes):
    facts = {
        "run": "runs/r", "rows": {ACCEPTED: 40, REJECTED: 9, ERROR: 2}, "cut_off": 10, "rejects": {"empty_text": 9},
        "errors": {f"reason {n}": 1 for n in "abcdefg"}, "shards": 1, "output_tokens": 5, "generated": 0,
        "serving_seconds": 0.0, "tokens_per_second": 0.0, "coordinator_seconds": 0.0, "writer_seconds": 0.0,
    }  # fmt: skip
    return Summary(**{**facts, **changes})


@pytest.fixture
def augment_command(monkeypatch):
    """Runs `kindling augment` with a given result."""

    def run(result, *options):
        monkeypatch.setattr("pipelines.jobfile.load_job", lambda *_: SimpleNamespace())
        monkeypatch.setattr("pipelines.augmentation.augment.augment", lambda *_, **__: result)
        return CliRunner().invoke(app, ["augment", "job.yaml", *options])

    return run


def test_augment_ends_with_the_share_of_cut_off_texts_and_the_reasons(augment_command):
    done = augment_command(summary())
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "cut off at max_tokens: 10 of 40 accepted rows (25.0%)" in lines
    assert "rejected  9 x empty_text" in lines and "failed    1 x reason a" in lines
    assert lines[-1].endswith("and 2 reasons more: --json has them")


def test_a_run_without_an_accepted_row_ends_with_1(augment_command):
    none = summary(rows={ACCEPTED: 0, REJECTED: 0, ERROR: 7}, cut_off=0, rejects={})
    done = augment_command(none)
    assert done.exit_code == 1 and "no row was accepted" in done.stdout and "reason a" in done.stdout
    done = augment_command(none, "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["errors"]["reason a"] == 1


# Before engines start


def planned(tmp_path, lines, prompt="Write of {{ context }}."):
    write_jsonl(tmp_path / "in.jsonl", lines)
    (tmp_path / "p.jinja").write_text(prompt)
    job = AugmentJob.model_validate(
        {
            "name": "j", "input": {"path": str(tmp_path / "in.jsonl")}, "recipe": "template",
            "prompt": str(tmp_path / "p.jinja"), "output": {"path": str(tmp_path / "run")},
        }
    )  # fmt: skip
    recipes = make_recipes(job)
    reader = InputReader(Input(path=job.input.path), all_fields(recipes), optional_fields(recipes))
    run = run_of(1, inputs=[InputSource(source="s", rows=len(lines), content="c")], segments=[len(lines)])
    return run, reader, variant_settings(job, recipes)


@pytest.mark.parametrize("count", [3, 100, 2500])
def test_a_job_whose_rows_all_lack_a_prompt_is_refused_with_the_reasons(tmp_path, count):
    lines = [{"context": None if n % 3 else 7 * "x", "n": n} for n in range(count)]
    run, reader, variants = planned(tmp_path, lines, "{{ context }}{{ context.upper.lower.missing[n] }}")
    with pytest.raises(JobError) as caught:
        refuse_rows_without_prompts(run, reader, variants, set())
    assert "context is null" in str(caught.value) and "uses a value that the row lacks" in str(caught.value)
    assert "no engine was started" in str(caught.value)


@pytest.mark.parametrize("good", [0, 99, 2000])
def test_one_row_with_a_prompt_is_enough(tmp_path, good):
    lines = [{"context": "A good one." if abs(n - good) < 25 else None} for n in range(2500)]
    refuse_rows_without_prompts(*planned(tmp_path, lines), set())


# Once engines run


def first_rows(tmp_path, results, lines=None, is_first_start=True):
    """Watches rows whose results come in this order: the reason of each that failed; "" for one that did not."""
    _, _, variants = planned(tmp_path, [{"context": "A good one."}])
    watched = FirstRows(variants, is_first_start)
    lines = lines or [{"context": "A good one."}] * len(results)
    sent = list(watched.watch(WorkRow(n, 0, "s", n, 0, values) for n, values in enumerate(lines)))
    changes = [{"state": ERROR, "reason": reason} if reason else {} for reason in results]
    watched.on_finished(FinishedRows.of(sent[: len(changes)], rows(*changes)))
    return watched


def test_a_run_whose_first_rows_fail_in_the_engine_for_one_reason_ends_with_it(tmp_path):
    watched = first_rows(tmp_path, [f"the prompt has {n} tokens" for n in range(70)])
    assert watched.have_failed
    assert "each of the first 64 rows failed, for the same reason: the prompt has N tokens" in str(watched.error())


def test_other_failures_do_not_end_a_run(tmp_path):
    too_long, blank = "the prompt is too long", {"context": None}
    for results, more in (
        ([*[too_long] * 63, ""], {}),  # one is enough
        ([*[too_long] * 63, "another reason"], {}),
        ([too_long] * 63, {}),
        ([too_long] * 70, {"is_first_start": False}),
        # Rows without a prompt fail at once, before any row that is generated ends.
        (["context is null"] * 200, {"lines": [blank] * 200 + [{"context": "A good one."}] * 100}),
    ):
        assert not first_rows(tmp_path, results, **more).have_failed

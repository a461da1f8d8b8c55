"""The budget of a run: nothing is used beyond it, and a higher one lets the same command go on."""

from types import SimpleNamespace

import pytest

from pipelines import augment, check, status, verify
from pipelines.augmentation.budget import RunBudget, list_spent
from pipelines.augmentation.plan import planned_run
from pipelines.inputs.reader import InputReader
from pipelines.jobfile import as_job
from pipelines.previewing.estimates import Interval
from pipelines.previewing.preview import _budget_notes
from pipelines.recipes import all_fields, make_recipes
from pipelines.run_status.page import current_time, render_page
from schemas.errors import EXIT_STOPPED, JobError, StoppedError
from schemas.fingerprint import identity_of
from services.replicas.members import Member
from services.replicas.replica_pool import ReplicaPool
from services.storage.store import ShardStore
from tests.support.runs import make_run


def test_a_run_stops_before_its_tokens_are_used_up_and_goes_on_with_more(fake_job, ray_cluster, monkeypatch):
    job = {**fake_job, "budget": {"tokens": 300}}
    with pytest.raises(StoppedError, match=r"budget.tokens = 300: \d+ output tokens are used, and one more row may ta"):
        augment(job)
    stopped = status(job["output"]["path"])
    assert 300 - 32 < stopped.output_tokens <= 300 and 0 < sum(stopped.rows.values()) < 40
    assert stopped.budget == {"tokens": 300} and stopped.replica_hours > 0

    monkeypatch.setattr(ReplicaPool, "_create", None)  # no engine starts for a budget that is used up
    with pytest.raises(StoppedError, match=r"raise budget\.tokens") as error:
        augment(job)
    assert error.value.exit_code == EXIT_STOPPED
    (finding,) = [each for each in check(job).findings if each.topic == "budget"]
    assert finding.state == "warning" and "are like the others" in finding.text
    monkeypatch.undo()

    summary = augment({**job, "budget": {"tokens": 300 + 40 * 32}})
    assert summary.rows["accepted"] == 40 and summary.output_tokens <= 300 + 40 * 32
    assert verify(summary.run).faults == []
    assert status(summary.run).replica_hours > stopped.replica_hours
    whole = augment({**fake_job, "output": {**fake_job["output"], "path": summary.run + "-whole"}})
    assert whole.output_tokens == summary.output_tokens


def progress_at(seconds, tokens=0):
    return SimpleNamespace(
        output_tokens=tokens, replica_seconds=seconds, finished=3, total=40, longest_row_seconds=lambda: 5.0
    )


def pool_of(*phases):
    members = [Member(number, None, phase=phase, placement=None) for number, phase in enumerate(phases)]
    return SimpleNamespace(members=members)


@pytest.mark.parametrize(
    ("limits", "key"), [({"hours": 0.1}, "budget.hours = 0.1: 0.0986"), ({"cost": 0.2}, "budget.cost = 0.2: 0.1972")]
)
def test_rows_in_flight_finish_before_the_hours_and_the_cost_are_used_up(fake_job, limits, key):
    job = as_job({**fake_job, "budget": limits, "cluster": {"price_per_replica_hour": 2.0}})
    progress = progress_at(340)
    budget = RunBudget(job, progress)
    budget.refuse_if_used_up()
    budget.update(pool_of("serving", "starting", "lost"))
    assert budget.stop_within() is None  # 20 replica-seconds are 10 for each of two replicas, and a row takes 5
    progress.replica_seconds = 355
    budget.update(pool_of("serving", "starting"))
    assert budget.stop_within() == 2.5 and budget.is_used_up
    progress.replica_seconds = 361
    budget.update(pool_of("serving"))
    assert budget.stop_within() == 0
    with pytest.raises(StoppedError, match="3 of 40 rows are finished"):
        budget.refuse_if_used_up()
    progress.replica_seconds = 355
    assert key in str(budget.error())


def test_a_member_costs_from_the_moment_it_has_a_node():
    waiting = Member(0, None, placement=object())
    assert not waiting.is_paid and not Member(0, None, is_warm=True).is_paid
    assert Member(0, None).is_paid and Member(0, None, is_warm=True, phase="serving").is_paid


def test_without_a_budget_nothing_is_limited(fake_job):
    job = as_job(fake_job)
    budget = RunBudget(job, progress_at(1e9, 10**12))
    budget.refuse_if_used_up()
    budget.update(pool_of("serving"))
    assert budget.stop_within() is None and budget.max_in_flight() > 10**12 and not list(list_spent(job, 5, 5))


def test_a_budget_is_no_part_of_the_identity(fake_job):
    plain, limited = (as_job({**fake_job, **more}).model_dump(mode="json") for more in ({}, {"budget": {"hours": 1}}))
    assert identity_of(plain) == identity_of(limited) and "budget" not in plain


@pytest.mark.parametrize(
    ("budget", "cause"),
    [
        ({"tokens": 31}, "budget.tokens = 31 is below max_tokens = 32"),
        ({"cost": 5}, "give cluster.price_per_replica_hour"),
        ({"tokens": 0}, "budget.tokens = 0"),
        ({"hour": 1}, r"did you mean `budget.hours`"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(fake_job, budget, cause):
    with pytest.raises(JobError, match=cause):
        as_job({**fake_job, "budget": budget})


def test_check_and_preview_warn_of_a_budget_that_is_too_small(fake_job):
    def finding(**budget):
        (found,) = [each for each in check({**fake_job, "budget": budget}, rows=0).findings if each.topic == "budget"]
        return found.state, found.text

    assert finding(tokens=1280)[0] == "ok"  # 40 rows of at most 32 tokens
    state, text = finding(tokens=1279)
    assert state == "warning" and "take at most 1,280, at 32 for each. 39 rows fit in any case" in text
    assert finding(hours=1)[0] == "ok"

    job = as_job({**fake_job, "budget": {"tokens": 1000, "hours": 1}})
    recipes = make_recipes(job)
    inputs = InputReader(job.input, all_fields(recipes)).inputs
    run = planned_run(ShardStore(job.output.path), job, recipes, inputs)
    forecast = SimpleNamespace(
        rows=40, output_tokens=Interval(2000, 1800, 2200), replica_hours=Interval(0.8, 0.5, 1.5), cost=None
    )
    tokens, hours = _budget_notes(job, run, forecast)
    assert "1,000 output tokens are left of budget.tokens" in tokens and "stops after about 20 of them" in tokens
    assert hours.endswith("take 0.8 (0.5 to 1.5): the job may stop before its end")
    forecast.output_tokens, forecast.replica_hours = Interval(900, 800, 1000), None
    assert not list(_budget_notes(job, run, forecast))


def test_a_start_without_a_row_is_paid_too(fake_job):
    job = as_job(fake_job)
    recipes = make_recipes(job)
    inputs = InputReader(job.input, all_fields(recipes)).inputs
    store = ShardStore(job.output.path)
    run = planned_run(store, job, recipes, inputs)
    run.last_metrics = {"kindling_replica_seconds_total": 90.0}
    store.write_run(run)
    assert planned_run(store, job, recipes, inputs).replica_seconds == 90
    other = as_job({**fake_job, "seed": 1})
    assert planned_run(store, other, recipes, inputs).replica_seconds == 0


def test_status_shows_what_is_used_of_a_budget(tmp_path):
    run = make_run(tmp_path / "run", [{}, {}])
    record = ShardStore(str(run)).read_run()
    record.job["budget"] = {"tokens": 2_000_000, "hours": 0.5, "cost": None}
    record.last_metrics = {"kindling_replica_seconds_total": 900.0}
    ShardStore(str(run)).write_run(record)
    shown = status(run)
    line = f"budget    used: output tokens {shown.output_tokens:,} of 2,000,000, replica-hours 0.25 of 0.5"
    assert shown.output_tokens and line in render_page(shown, current_time(), 80)

"""The coordinator over replicas that a test kills, without a clock: rows that kill engines are found, others finish."""

import random
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import EngineError
from schemas.rows import FinishedRows, WorkRow
from services.replicas import coordinator, dispatch_window
from services.replicas.coordinator import Coordinator
from services.replicas.members import Lost, Member, Ready, Returned
from services.replicas.row_records import VariantSettings

RECIPE = SimpleNamespace(prompt_id="p", prompt_hash="h")
SHARE = 20


class DyingPool:
    """Replicas that die under poison rows, now and then under any, and finish the others in no particular order."""

    def __init__(self, replicas, draw, poison, kills=0, by="process"):
        self.draw, self.poison, self.kills, self.by = draw, poison, kills, by
        self.deaths = self.most_in_a_row = 0
        self.in_a_row = [0] * replicas
        self.members = [self._up(number) for number in range(replicas)]
        self.news = [Ready(member) for member in self.members]

    def send(self, member, rows):
        assert member in self.members and member.phase == "serving"
        member.rows.update((row.output_id, row) for row in rows)
        assert len(member.rows) <= SHARE

    def wait(self, timeout):
        news, self.news = self.news, []
        for member in self.members:
            poisoned = self.poison.intersection(member.rows)
            killed = self.kills and member.rows and self.draw.random() < 0.3
            if member.phase == "serving" and (killed or (poisoned and self.draw.random() < 0.5)):
                self.kills -= bool(killed)
                self.deaths += 1
                news.append(Lost(member, "boom", self.by if killed else "engine"))
            elif done := [
                row for row in member.rows.values() if row.output_id not in poisoned and self.draw.random() < 0.5
            ]:
                news.append(
                    Returned(member, FinishedRows([row.output_id for row in done], [0] * len(done), b"", SHARE))
                )
        return news

    def replace(self, member, cause, count_death=True):
        self.in_a_row[member.number] += count_death
        self.most_in_a_row = max(self.most_in_a_row, *self.in_a_row, 0)
        self.members[member.number] = self._up(member.number)

    def reopen_session(self, member):
        self.members[member.number] = self._up(member.number)

    def clear_deaths(self, member):
        self.in_a_row[member.number] = 0

    def _up(self, number):
        return Member(number, None, phase="serving", share=SHARE)


def rows(count):
    return iter([WorkRow(number, 0, "in", number, 0, {"text": "x"}) for number in range(count)])


def run(pool, number, stop_within=lambda: None, **options):
    finished, failed = [], {}

    def sink(message):
        if message.encoded:
            failed.update(zip(message.output_ids, message.batch["reason"].to_pylist(), strict=True))
        else:
            finished.extend(message.output_ids)

    variants = {"default": VariantSettings(RECIPE, {}, 0, "fake")}
    feeder = Coordinator(pool, variants, rows(number), number, sink, stop_within, lambda member: None, **options)
    return feeder.run(), finished, failed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.sets(st.integers(0, 299), max_size=4), st.integers(0, 2**32))
def test_poison_rows_alone_fail_and_each_row_ends_once(replicas, poison, seed):
    done, finished, failed = run(DyingPool(replicas, random.Random(seed), poison), 300)
    assert done and sorted(finished) == sorted(set(range(300)) - poison)
    assert set(failed) == poison
    assert all("boom" in reason and "under this row alone" in reason for reason in failed.values())


def test_a_replica_has_few_large_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(coordinator, "_MAX_CHARACTERS_IN_FLIGHT", 3)
    monkeypatch.setattr(dispatch_window, "MAX_BATCH_CHARACTERS", 1)
    pool, most = DyingPool(2, random.Random(0), set()), []
    wait = pool.wait
    monkeypatch.setattr(pool, "wait", lambda timeout: most.extend(len(m.rows) for m in pool.members) or wait(timeout))
    done, finished, failed = run(pool, 50)
    assert done and sorted(finished) == list(range(50)) and not failed
    assert max(most) == 3


def test_no_more_rows_are_in_flight_than_allowed_whatever_dies(monkeypatch):
    pool, most = DyingPool(2, random.Random(0), {7, 30}, kills=5), []
    wait = pool.wait
    monkeypatch.setattr(
        pool, "wait", lambda timeout: most.append(sum(len(m.rows) for m in pool.members)) or wait(timeout)
    )
    done, finished, failed = run(pool, 100, max_in_flight=lambda: 5)
    assert done and sorted([*finished, *failed]) == list(range(100)) and set(failed) == {7, 30}
    assert max(most) == 5


def test_a_poison_row_costs_three_engines():
    pool = DyingPool(2, random.Random(0), {7})
    run(pool, 200)
    assert pool.deaths == 3
    assert pool.most_in_a_row < 3  # at which the real pool takes the engine for broken, and ends the job


def test_an_engine_that_dies_under_every_row_ends_the_job_and_no_row_is_blamed():
    pool = DyingPool(1, random.Random(0), set(range(300)))
    with pytest.raises(EngineError, match=r"under each of 8 rows alone.*boom") as told:
        run(pool, 300)
    assert "no row is blamed" in str(told.value)
    assert pool.deaths < 15


def test_poison_rows_that_are_all_there_is_are_blamed():
    done, finished, failed = run(DyingPool(1, random.Random(0), set(range(5))), 5)
    assert done and not finished and set(failed) == set(range(5))


@pytest.mark.parametrize("by", ["process", "node", "session"])
def test_rows_are_not_blamed_for_what_befalls_machines(by):
    for seed in range(20):
        done, finished, failed = run(DyingPool(2, random.Random(seed), set(), kills=15, by=by), 400)
        assert done and sorted(finished) == list(range(400)) and not failed


def test_a_stop_waits_for_rows_in_flight_and_hands_out_no_more(caplog):
    pool = DyingPool(2, random.Random(0), set())
    asked = []

    def stop_within():
        asked.append(1)
        return None if len(asked) < 4 else 10.0

    with caplog.at_level("WARNING", "kindling"):
        done, finished, failed = run(pool, 1000, stop_within)
    assert not done and not failed
    assert re.fullmatch(r"finishing \d+ rows? in flight, up to 10 s more", caplog.messages[-1])
    assert not any(member.rows for member in pool.members) and 0 < len(finished) < 200


def test_a_stop_without_grace_leaves_rows_in_flight():
    pool = DyingPool(1, random.Random(0), set())
    done, finished, _ = run(pool, 1000, lambda: 0.0)
    assert not done and finished == []


@pytest.mark.parametrize("is_resumable", [True, False])
def test_a_stop_says_how_many_rows_in_flight_it_gives_up(caplog, is_resumable):
    pool, looks = DyingPool(1, random.Random(0), set()), iter([None, None, 5.0, 5.0, 5.0, 0.0])
    ready = pool.wait(0)
    pool.wait = lambda timeout: [ready.pop()] if ready else []  # serves, and never returns a row
    with caplog.at_level("WARNING", "kindling"):
        done, finished, _ = run(pool, 3, lambda: next(looks, 0.0), is_resumable=lambda: is_resumable)
    assert not done and not finished
    messages = [
        "finishing 3 rows in flight, up to 5 s more",
        "3 rows in flight given up: the next start generates them anew",
    ]
    assert caplog.messages == (messages if is_resumable else [])  # nobody resumes a preview


def test_a_replica_that_dies_while_the_job_ends_is_not_replaced():
    pool = DyingPool(1, random.Random(0), set(range(5)))
    asked = []
    pool.replace = lambda *arguments, **options: pytest.fail("replaced")

    def stop_within():
        asked.append(1)
        return None if len(asked) < 2 else 10.0

    done, _, failed = run(pool, 5, stop_within)
    assert not done and not failed and pool.members[0].phase == "lost"

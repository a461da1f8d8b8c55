"""Decisions of a replica: when rows go to the engine, and how many each job may have there."""

import asyncio

import pytest

from schemas.errors import JobError
from schemas.job import Model
from services.engines.engine import EngineSpec
from services.engines.fake_engine import FakeEngine
from services.observability.start_phases import IMPORTING, LOADING, WARMING_UP
from services.replicas import replica as replica_module
from services.replicas import sessions
from services.replicas.replica import Replica
from services.replicas.row_records import VariantSettings
from services.replicas.sessions import RenderBarrier, Session


async def through(barrier, seconds, left, error=None):
    await asyncio.sleep(seconds)
    if error:
        barrier.leave()
        raise error
    await barrier.wait()
    left.append(seconds)


def test_rows_of_a_message_go_on_together_and_a_failed_one_holds_none():
    async def run():
        barrier, left = RenderBarrier(4), []
        failed = asyncio.create_task(through(barrier, 0, left, ValueError("no such row")))
        rows = [asyncio.create_task(through(barrier, seconds, left)) for seconds in (0.3, 0, 0)]
        await asyncio.sleep(0.1)
        assert left == [] and isinstance(failed.exception(), ValueError)
        await asyncio.gather(*rows)
        assert sorted(left) == [0, 0, 0.3]

    asyncio.run(run())


def test_a_slow_row_holds_the_others_for_a_while_alone(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_WAIT_SECONDS", 0.05)

    async def run():
        barrier, left = RenderBarrier(3), []
        rows = [asyncio.create_task(through(barrier, seconds, left)) for seconds in (30, 0, 0)]
        await asyncio.wait_for(asyncio.gather(*rows[1:]), 5)
        rows[0].cancel()
        assert left == [0, 0]

    asyncio.run(run())


@pytest.mark.parametrize(("others", "share"), [([], 22), ([11], 11), ([22], 11), ([3], 19), ([2, 3], 17)])
def test_a_job_has_its_equal_share_and_what_the_others_leave(others, share):
    spec = EngineSpec(Model(id="fake"), {"max_num_seqs": 20})
    one = Replica(spec)
    one._engine = FakeEngine(spec)
    open_sessions = [Session(variants={}, tasks=set(range(tasks))) for tasks in [0, *others]]
    one._sessions = dict(enumerate(open_sessions))
    assert one._share(open_sessions[0]) == share


def test_a_replica_reports_each_phase_of_its_start_once(monkeypatch):
    monkeypatch.setattr(replica_module, "_PHASE_CHECK_SECONDS", 0.01)

    async def run():
        replica, phases = Replica(spec := EngineSpec(Model(id="embedded"))), []

        async def follow():
            while phase := await replica.start_phase(phases[-1] if phases else ""):
                phases.append(phase)

        following = asyncio.create_task(follow())
        for change in ({}, {"_phase": LOADING}, {"_log": LoadedLog()}, {"_engine": FakeEngine(spec)}):
            vars(replica).update(change)
            await asyncio.sleep(0.1)
        await following
        return phases

    assert asyncio.run(run()) == [IMPORTING, LOADING, WARMING_UP]


class LoadedLog:
    def has_loaded_weights(self):
        return True


def test_a_session_is_refused_whose_sampling_every_row_would_fail_with():
    checked = []

    class PickyEngine(FakeEngine):
        async def check(self, sampling):
            checked.append(sampling["max_tokens"])
            if sampling["max_tokens"] > 2:
                raise JobError("sampling.max_tokens", sampling["max_tokens"], "too many", "lower it")

    replica = Replica(spec := EngineSpec(Model(id="fake")))
    replica._engine = PickyEngine(spec)
    variants = {
        str(number): VariantSettings(None, {"max_tokens": tokens}, 0, "fake", variant=str(number))
        for number, tokens in enumerate([1, 1, 2, 3, 4])
    }
    with pytest.raises(JobError, match=r"sampling\.max_tokens = 3"):
        asyncio.run(replica.open("job", variants))
    assert checked == [1, 2, 3]  # each once, and none after the first fault
    assert replica._sessions == {}

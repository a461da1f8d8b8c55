"""A replica: one Ray actor around one engine. Rows go in, Arrow batches of finished rows come out.

Invariant: each row of an open session ends as exactly one record in that session, whatever its recipe or the engine
raises; only a dead engine leaves rows without records, and `exchange` then reports the death after the last record.

Several jobs may use a replica at the same time, each in its own session: replicas of a warm pool outlive their jobs.
"""

import asyncio
import json
import logging
import math
import os
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from time import monotonic
from typing import Any

import ray

from schemas.rows import REJECTED, FinishedRows, RowError, RowRejection, WorkRow, to_batch
from services.engines.cpu_cores import CoreClaim
from services.engines.engine import Engine, EngineDeadError, EngineInfo, EngineSpec, Generation, ShouldStop
from services.engines.engine_log import EngineLog
from services.engines.fake_engine import FakeEngine
from services.models.checkpoints import locate
from services.observability import start_phases
from services.replicas.row_records import VariantSettings, failed_record, finished_record
from services.replicas.sessions import (
    OVERSUBSCRIPTION,
    OpenedSession,
    RenderBarrier,
    Session,
    SessionLostError,
    full_message_rows,
)

_log = logging.getLogger("kindling")

_WATCH_SECONDS = 1.0
# A job that made no call for so long is taken for dead: its session is closed, and other jobs get its share.
_JOB_SILENCE_SECONDS = 20.0
_PHASE_CHECK_SECONDS = 0.5
STATUS_GROUP = "status"
"""calls of this group have a thread of their own, and are answered while the engine's start blocks the others"""
# Time that a replica stays up after its engine died, so that its jobs can ask for the cause.
_REPORT_DEATH_SECONDS = 3.0


class Replica:
    """The actor. It is created at once; the first `open` (or `start`) starts the engine and takes long.

    Args:
        spec: the engine to start.
        idle_seconds: time without a job after which the actor ends itself; silent jobs are then closed too. None for a
            replica that belongs to one job and ends with it.
    """

    def __init__(self, spec: EngineSpec, idle_seconds: float | None = None) -> None:
        self._spec, self._idle_seconds = spec, idle_seconds
        self._claim: CoreClaim | None = None
        self._engine: Engine | None = None
        self._starting = asyncio.Lock()
        self._log = EngineLog()
        self._phase = start_phases.LOADING if spec.model.id == "fake" else start_phases.IMPORTING
        self._sessions: dict[str, Session] = {}
        self._death: EngineDeadError | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._idle_since = monotonic()
        if idle_seconds is not None:
            threading.Thread(target=self._end_if_never_started, args=(idle_seconds,), daemon=True).start()

    async def start(self) -> EngineInfo:
        """Starts the engine, if it is not up yet.

        Raises:
            EngineError: the model does not exist, or the engine refuses its settings.
            EngineDeadError: the engine died while it started.
        """
        async with self._starting:
            if self._engine is None:
                if not self._spec.gpus:
                    self._claim = CoreClaim(self._spec.cpus)
                # The first Arrow batch makes pyarrow import pandas, which takes a second. Done here, no row waits.
                to_batch([])
                self._engine = await self._start_engine(replace(self._spec, cores=self._cores))
                self._idle_since = monotonic()
        if self._idle_seconds is not None and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(self._idle_seconds))
        return self._engine.info

    async def _start_engine(self, spec: EngineSpec) -> Engine:
        if spec.model.id == "fake":
            return FakeEngine(spec)
        # Before vllm is imported, which takes 15 s: a misspelt model is reported at once.
        path, revision = locate(spec.model)
        from services.engines.vllm_engine import VllmEngine

        self._phase = start_phases.LOADING
        return await VllmEngine.start(spec, path, revision)

    @ray.method(concurrency_group=STATUS_GROUP)
    async def start_phase(self, known: str) -> str:
        """Waits until the start of the engine is in another phase than the known one.

        Returns:
            Name of the phase, as in `services.observability.start_phases`; "" once the engine is up.
        """
        while (phase := self._start_phase()) == known:
            await asyncio.sleep(_PHASE_CHECK_SECONDS)
        return phase

    def _start_phase(self) -> str:
        if self._engine is not None:
            return ""
        return start_phases.WARMING_UP if self._log.has_loaded_weights() else self._phase

    @ray.method(max_task_retries=-1)
    async def open(self, job_id: str, variants: Mapping[str, VariantSettings]) -> OpenedSession:
        """Opens a session for a job. Ray repeats the call where it restarts this actor.

        Args:
            job_id: id of the job's pool.
            variants: settings of each variant that rows have, by its name.

        Raises:
            EngineError: the model does not exist, or the engine refuses its settings.
            JobError: the engine refuses the sampling of a variant for every row.
        """
        info = await self.start()
        if self._death is not None and self._idle_seconds is not None:
            # This process is about to end. Ray then repeats the call in the restarted actor.
            await asyncio.sleep(math.inf)
        samplings = chain.from_iterable(settings.samplings for settings in variants.values())
        for sampling in {json.dumps(sampling): sampling for sampling in samplings}.values():
            await self._running_engine.check(sampling)
        # Where the call is repeated, the driver knows nothing of the first session.
        await self.close(job_id)
        revision = info.model_revision
        session = Session({name: replace(settings, model_revision=revision) for name, settings in variants.items()})
        self._sessions[job_id] = session
        node = ray.get_runtime_context().get_node_id()
        missing = self._claim.missing if self._claim is not None else 0
        return OpenedSession(info, node, self._cores, missing, self._share(session))

    async def submit(self, message: bytes) -> None:
        """Takes rows and returns at once; `exchange` returns them when they are finished.

        Args:
            message: pickled (job_id, rows).
        """
        job_id, rows = pickle.loads(message)
        self._submit(job_id, rows)

    def _submit(self, job_id: str, rows: list[WorkRow]) -> None:
        if session := self._sessions.get(job_id):
            barrier = RenderBarrier(len(rows))
            for row in rows:
                task = asyncio.create_task(self._run(session, row, barrier))
                # The event loop keeps only weak references to tasks; without this one they could be collected.
                session.tasks.add(task)
                task.add_done_callback(session.tasks.discard)

    async def exchange(self, message: bytes) -> bytes:
        """Takes rows, waits for finished ones, and returns all there are; returns none after a while without any.

        Both directions use one bytes object: Ray encodes each argument, and each column of an Arrow batch, separately,
        and that would be most of what a row costs the driver.

        Args:
            message: pickled (job_id, rows); the rows may be none.

        Returns:
            A pickled `FinishedRows`.

        Raises:
            EngineDeadError: the engine died, and all records that it left were returned before.
            SessionLostError: this job was silent for too long.
        """
        job_id, rows = pickle.loads(message)
        session = self._sessions.get(job_id)
        if session is None:
            raise SessionLostError
        self._submit(job_id, rows)
        if self._death is None:
            await session.wait()
        if self._death is not None and not session.records:
            raise self._death
        records = session.take()
        batch = to_batch([record for _, record in records], session.schema)
        finished = [row for row, _ in records]
        usage = self._running_engine.kv_cache_usage()
        return pickle.dumps(FinishedRows.of(finished, batch, self._share(session), usage))

    async def close(self, job_id: str) -> None:
        """Closes a job's session; rows that are still running are dropped."""
        if session := self._sessions.pop(job_id, None):
            for task in session.tasks:
                task.cancel()
            self._idle_since = monotonic()

    async def describe(self) -> dict[str, Any]:
        """Returns the status that `kindling pool list` shows, and the settings by which a job adopts a pool."""
        return {
            "settings": self._spec.settings,
            "up": self._engine is not None,
            "jobs": len(self._sessions),
            "in_flight": sum(len(session.tasks) for session in self._sessions.values()),
            "cores": list(self._cores),
            "idle_seconds": 0.0 if self._sessions else round(monotonic() - self._idle_since, 1),
        }

    async def reset_prefix_cache(self) -> bool:
        """Empties the engine's prefix cache, so that runs of a benchmark do not profit from each other."""
        return await self._running_engine.reset_prefix_cache()

    async def stop(self) -> None:
        """Ends the engine; rows that are still running are dropped."""
        for job_id in list(self._sessions):
            await self.close(job_id)
        if self._engine is not None:
            await self._engine.stop()

    @property
    def _running_engine(self) -> Engine:
        """The engine, which is up: rows and calls come only from jobs that opened a session."""
        assert self._engine is not None
        return self._engine

    @property
    def _cores(self) -> tuple[int, ...]:
        return self._claim.cores if self._claim is not None else ()

    def _share(self, session: Session) -> int:
        """Returns the number of requests that a job may have here.

        It is an equal share of the engine, or more where the other jobs use less than theirs.
        """
        total = math.ceil(self._running_engine.info.max_num_seqs * OVERSUBSCRIPTION)
        others = sum(len(other.tasks) for other in self._sessions.values() if other is not session)
        return max(math.ceil(total / max(len(self._sessions), 1)), total - others)

    def _end_if_never_started(self, idle_seconds: float) -> None:
        """Ends the actor where no job makes it start its engine; runs in a thread of its own.

        Ray restarts an actor that died even if no job needs it. Such an actor has no engine and no watcher, so nothing
        else would end it.
        """
        while self._watcher is None:
            time.sleep(_WATCH_SECONDS)
            if not self._starting.locked() and monotonic() - self._idle_since > idle_seconds:
                ray.kill(ray.get_runtime_context().current_actor)

    async def _watch(self, idle_seconds: float) -> None:
        """Closes sessions of silent jobs, and ends the actor where its engine died or no job came for long."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = monotonic()
            silent = [
                job_id for job_id, each in self._sessions.items() if now - each.last_call_at > _JOB_SILENCE_SECONDS
            ]
            for job_id in silent:
                _log.warning(
                    "a job made no call for %.0f s, and its rows are dropped. Nothing needs to be done: if the job is "
                    "alive, it sends them again", _JOB_SILENCE_SECONDS,
                )  # fmt: skip
                await self.close(job_id)
            if self._death is not None:
                await asyncio.sleep(_REPORT_DEATH_SECONDS)
                # A clean exit would count as intended; after this one Ray restarts the actor.
                os._exit(1)
            if not self._sessions and now - self._idle_since > idle_seconds:
                await self.stop()
                ray.kill(ray.get_runtime_context().current_actor)

    async def _run(self, session: Session, row: WorkRow, barrier: RenderBarrier) -> None:
        """Runs one row from its prompt to its record."""
        settings = session.variants[row.variant]
        seed = settings.seed_of(row)
        is_rendered = False

        async def generate(
            messages: list[dict[str, str]],
            sampling: dict[str, Any],
            seed: int,
            should_stop: ShouldStop | None = None,
        ) -> Generation:
            nonlocal is_rendered
            prepared = await self._running_engine.prepare(messages)
            if not is_rendered:
                is_rendered = True
                await barrier.wait()
            return await self._running_engine.generate(prepared, sampling, seed, should_stop)

        try:
            if row.values is None:
                raise RowError(row.fault)
            if row.refused:
                raise RowRejection(row.refused)
            if settings.program is not None:
                record = await settings.program.run(row, settings, generate)
            else:
                prompt = settings.recipe.render(row.values, seed)
                generation = await generate(prompt.messages, settings.sampling, seed, settings.should_stop(prompt))
                record = finished_record(row, settings, seed, prompt, generation)
        except EngineDeadError as error:
            # No record: the row did nothing wrong as far as anybody knows. The driver takes it back.
            self._death = error
            for affected in self._sessions.values():
                affected.wake()
            return
        except RowRejection as rejection:
            record = failed_record(row, settings, seed, str(rejection), REJECTED)
        except RowError as error:
            record = failed_record(row, settings, seed, str(error))
        except Exception as error:  # a row without a record would be awaited forever
            record = failed_record(row, settings, seed, f"{type(error).__name__}: {error}")
        finally:
            if not is_rendered:
                barrier.leave()
        session.add(row, record, full_message_rows(self._share(session)))

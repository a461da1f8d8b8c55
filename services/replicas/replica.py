"""A replica: one Ray actor round one engine. Rows go in, Arrow batches of finished rows come out.

Several jobs may use one replica at once, each in a session of its own: a warm pool's replicas outlive their jobs.
"""

import asyncio
import contextlib
import logging
import math
import os
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import ray

from schemas.rows import REJECTED, FinishedRows, RowError, RowRejection, WorkRow, to_batch
from services.engines.cpu_cores import CoreClaim
from services.engines.engine import Engine, EngineDeadError, EngineInfo, EngineSpec
from services.engines.fake_engine import FakeEngine
from services.models.checkpoints import locate
from services.replicas.row_records import VariantSettings, failed_record, finished_record

_log = logging.getLogger("kindling")

# Requests that wait inside the engine, so that a finished one is followed at once: prompts are tokenized ahead there.
OVERSUBSCRIPTION = 1.1
# A finished row waits this long at least, and that long at most while there are few, for others to travel with: what a
# message costs the driver is many times what a row costs it.
MIN_WAIT_SECONDS = 0.02
MAX_WAIT_SECONDS = 1.0
_MOST_OF_WAITING = 0.7
# A call that waits for rows returns empty-handed after this, so that the driver hears from every replica.
_LONGEST_WAIT_SECONDS = 2.0
# A job that was not heard of for so long is dead: its requests are dropped, and others get its share.
_SILENCE_SECONDS = 20.0
_WATCH_SECONDS = 1.0
# How long a dead engine's replica stays to tell its jobs why.
_LAST_WORDS_SECONDS = 3.0


class SessionLostError(Exception):
    """The replica took this job for dead, and dropped its rows; a new session takes them again."""


@dataclass(frozen=True)
class OpenedSession:
    """What a replica answers to a job that opens a session.

    Attributes:
        node: id of the Ray node that it is on.
        cores: CPU cores that its engine computes on; empty on GPUs.
        cores_missing: those that it was to have, and other engines have.
        share: requests that the job may have in flight.
        uptime_seconds: time since the replica was created, the start of its engine included.
    """

    info: EngineInfo
    node: str
    cores: tuple[int, ...]
    cores_missing: int
    share: int
    uptime_seconds: float


@dataclass
class _Session:
    """One job's rows in this replica.

    Attributes:
        variants: settings of each variant that rows have, by its name.
        news: set where there are records, or the engine is dead.
        many: set where there are so many that they should not wait for more, or none is to come.
        heard_at: when the job last called, on the monotonic clock; infinity while a call of it waits here.
    """

    variants: dict[str, VariantSettings]
    records: list[tuple[WorkRow, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    many: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    heard_at: float = field(default_factory=monotonic)


class _Together:
    """The rows of one message leave this block together, when the last of them has come to its end.

    An engine computes on all its cores from its first request on, and prompts that are rendered beside that come to it
    late, in small batches. A row that takes long holds the others no longer than MAX_WAIT_SECONDS.
    """

    def __init__(self, rows: int) -> None:
        self._left, self._done = rows, asyncio.Event()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.set()
        if error is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), MAX_WAIT_SECONDS)


class Replica:
    """The actor. Light to create; the first `open`, or `start`, is what takes time.

    Args:
        spec: of the engine.
        idle_seconds: ends itself after so long without a job, and lets go of jobs that fell silent; None for a
            replica that belongs to one job and ends with it.
    """

    def __init__(self, spec: EngineSpec, idle_seconds: float | None = None) -> None:
        self._spec, self._idle_seconds = spec, idle_seconds
        self._claim: CoreClaim | None = None
        self._engine: Engine | None = None
        self._starting = asyncio.Lock()
        self._sessions: dict[str, _Session] = {}
        self._dead: EngineDeadError | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._began = self._idle_since = monotonic()
        if idle_seconds is not None:
            threading.Thread(target=self._end_unless_started, args=(idle_seconds,), daemon=True).start()

    async def start(self) -> EngineInfo:
        """Starts the engine, if it is not up.

        Raises:
            EngineError: the model is not there, or the engine refuses its settings.
        """
        async with self._starting:
            if self._engine is None:
                if not self._spec.gpus:
                    self._claim = CoreClaim(self._spec.cpus)
                # The first batch makes pyarrow import pandas, a second in which no row would be handed to the engine.
                to_batch([])
                self._engine = await _start_engine(replace(self._spec, cores=self._cores))
                self._idle_since = monotonic()
        if self._idle_seconds is not None and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(self._idle_seconds))
        return self._engine.info

    @ray.method(max_task_retries=-1)
    async def open(self, job: str, variants: Mapping[str, VariantSettings]) -> OpenedSession:
        """Begins a job's session; asked again while Ray restarts this actor.

        Args:
            variants: settings of each variant that rows have, by its name.

        Raises:
            EngineError: as `start`.
        """
        info = await self.start()
        if self._dead is not None and self._idle_seconds is not None:
            await asyncio.sleep(math.inf)  # this process is ending; Ray asks its successor
        await self.close(job)  # where this is asked again, the driver knows nothing of the rows of the first time
        revision = info.model_revision
        session = _Session({name: replace(settings, model_revision=revision) for name, settings in variants.items()})
        self._sessions[job] = session
        node, missing = ray.get_runtime_context().get_node_id(), self._claim.missing if self._claim is not None else 0
        return OpenedSession(info, node, self._cores, missing, self._share(session), monotonic() - self._began)

    async def submit(self, message: bytes) -> None:
        """Hands rows to the engine and returns at once; `exchange` brings them back.

        Args:
            message: pickled (job, rows).
        """
        job, rows = pickle.loads(message)
        self._submit(job, rows)

    def _submit(self, job: str, rows: list[WorkRow]) -> None:
        if session := self._sessions.get(job):
            together = _Together(len(rows))
            for row in rows:
                task = asyncio.create_task(self._run(session, row, together))
                # The loop only keeps weak references to tasks.
                session.tasks.add(task)
                task.add_done_callback(session.tasks.discard)

    async def exchange(self, message: bytes) -> bytes:
        """Hands rows to the engine, waits for finished ones, and returns all there are; none if a while passed without.

        Both ways one bytes object: Ray encodes each argument, and each column of an Arrow batch, for itself, which
        would be most of what a row costs the driver.

        Args:
            message: pickled (job, rows).

        Returns:
            A pickled `FinishedRows`.

        Raises:
            EngineDeadError: the engine is gone, and all that it finished was taken.
            SessionLostError: this job was silent for too long.
        """
        job, rows = pickle.loads(message)
        session = self._sessions.get(job)
        if session is None:
            raise SessionLostError
        self._submit(job, rows)
        session.heard_at = math.inf
        try:
            if self._dead is None:
                await asyncio.wait_for(session.news.wait(), _LONGEST_WAIT_SECONDS)
                await asyncio.sleep(MIN_WAIT_SECONDS)
                await asyncio.wait_for(session.many.wait(), MAX_WAIT_SECONDS - MIN_WAIT_SECONDS)
        except TimeoutError:
            pass
        finally:
            session.heard_at = monotonic()
        if self._dead is not None and not session.records:
            raise self._dead
        session.news.clear()
        session.many.clear()
        records, session.records = session.records, []
        batch = to_batch([record for _, record in records])
        rows = [row for row, _ in records]
        return pickle.dumps(FinishedRows.of(rows, batch, self._share(session), self._engine.kv_cache_usage()))

    async def close(self, job: str) -> None:
        """Ends a job's session; rows that are still running are dropped."""
        if session := self._sessions.pop(job, None):
            for task in session.tasks:
                task.cancel()
            self._idle_since = monotonic()

    async def describe(self) -> dict[str, Any]:
        """What `kindling pool list` shows of a replica that is up."""
        return {
            "up": self._engine is not None,
            "jobs": len(self._sessions),
            "in_flight": sum(len(session.tasks) for session in self._sessions.values()),
            "cores": list(self._cores),
            "idle_seconds": 0.0 if self._sessions else round(monotonic() - self._idle_since, 1),
        }

    async def reset_prefix_cache(self) -> bool:
        """See `Engine.reset_prefix_cache`; for benchmarks, whose runs must not profit from each other."""
        return await self._engine.reset_prefix_cache()

    async def stop(self) -> None:
        """Ends the engine; the rows it was at are dropped."""
        for job in list(self._sessions):
            await self.close(job)
        if self._engine is not None:
            await self._engine.stop()

    @property
    def _cores(self) -> tuple[int, ...]:
        return self._claim.cores if self._claim is not None else ()

    def _share(self, session: _Session) -> int:
        """An equal share of the engine, and what the others leave of theirs."""
        total = math.ceil(self._engine.info.max_num_seqs * OVERSUBSCRIPTION)
        others = sum(len(each.tasks) for each in self._sessions.values() if each is not session)
        return max(math.ceil(total / max(len(self._sessions), 1)), total - others)

    def _end_unless_started(self, idle_seconds: float) -> None:
        """Ray makes an actor anew that died, also where no job asks for it; without an engine nothing else ends it."""
        while self._watcher is None:
            time.sleep(_WATCH_SECONDS)
            if not self._starting.locked() and monotonic() - self._idle_since > idle_seconds:
                ray.kill(ray.get_runtime_context().current_actor)

    async def _watch(self, idle_seconds: float) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = monotonic()
            silent = [job for job, session in self._sessions.items() if now - session.heard_at > _SILENCE_SECONDS]
            for job in silent:
                _log.warning(
                    "a job was not heard of for %.0f s, and its rows are dropped; nothing needs doing: if it lives, "
                    "it will hand them out again", _SILENCE_SECONDS,
                )  # fmt: skip
                await self.close(job)
            if self._dead is not None:
                await asyncio.sleep(_LAST_WORDS_SECONDS)
                os._exit(1)  # Ray starts this actor anew
            if not self._sessions and now - self._idle_since > idle_seconds:
                await self.stop()
                ray.kill(ray.get_runtime_context().current_actor)

    async def _run(self, session: _Session, row: WorkRow, together: "_Together") -> None:
        settings = session.variants[row.variant]
        seed = settings.seed_of(row)
        try:
            async with together:
                if row.values is None:
                    raise RowError(row.fault)
                if row.refused:
                    raise RowRejection(row.refused)
                prompt = settings.recipe.render(row.values, seed)
                prepared = await self._engine.prepare(prompt.messages)
            generation = await self._engine.generate(prepared, settings.sampling, seed)
            record = finished_record(row, settings, seed, prompt, generation)
        except EngineDeadError as error:
            self._dead = error
            for each in self._sessions.values():
                each.news.set()
                each.many.set()
            return
        except RowRejection as rejection:
            record = failed_record(row, settings, seed, str(rejection), REJECTED)
        except RowError as error:
            record = failed_record(row, settings, seed, str(error))
        except Exception as error:  # a row that is never answered would hang its job
            record = failed_record(row, settings, seed, f"{type(error).__name__}: {error}")
        session.records.append((row, record))
        session.news.set()
        # The task that runs this is still among them.
        if len(session.tasks) <= 1 or len(session.records) >= full_message_rows(self._share(session)):
            session.many.set()


def full_message_rows(share: int) -> int:
    """Finished rows that must not wait for others: most of those that an engine holds beyond what it runs."""
    return max(int(share * (1 - 1 / OVERSUBSCRIPTION) * _MOST_OF_WAITING), 1)


async def _start_engine(spec: EngineSpec) -> Engine:
    if spec.model.id == "fake":
        return FakeEngine(spec)
    # Found before vllm is imported, which takes 15 s: a misspelt model is told at once.
    path, revision = locate(spec.model)
    from services.engines.vllm_engine import VllmEngine

    return await VllmEngine.start(spec, path, revision)

"""A replica: one Ray actor round one engine. Rows go in, Arrow batches of finished rows come out."""

import asyncio
import json
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa
import ray

from schemas.rows import ACCEPTED, ERROR, Prompt, RowError, WorkRow, row_seed, to_batch
from services.engine import Engine, EngineDeadError, EngineInfo, EngineSpec, Generation
from services.fake_engine import FakeEngine
from services.models import locate

# Rows that finish within this time travel in one message. Far below a row's own latency.
_COALESCE_SECONDS = 0.02
# A call that waits for rows returns empty-handed after this, so that the driver hears from every replica.
_LONGEST_WAIT_SECONDS = 2.0


class Recipe(Protocol):
    """Makes a prompt of a row; the recipes are in `pipelines.recipes`. It is pickled to every replica."""

    prompt_id: str
    prompt_hash: str

    def render(self, values: dict[str, Any]) -> Prompt:
        """Raises RowError where this row has no prompt: a null or non-text cell, say."""
        ...


@dataclass(frozen=True)
class RowContext:
    """What all rows of a run have in common."""

    recipe: Recipe
    sampling: dict[str, Any]
    run_seed: int
    model: str
    model_revision: str = ""
    variant: str = "default"


@dataclass(frozen=True)
class Finished:
    """Finished rows: `batch` (ROW_SCHEMA) and, row by row, their units and shards."""

    units: list[int]
    shards: list[int]
    batch: pa.RecordBatch


class Replica:
    """The actor. Light to create; `start` is what takes time."""

    def __init__(self) -> None:
        self._engine: Engine
        self._context: RowContext
        self._records: list[tuple[WorkRow, dict[str, Any]]] = []
        self._news = asyncio.Event()
        self._dead: EngineDeadError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def cores(self) -> tuple[str, list[int]]:
        """(id of the node that the actor landed on, CPU cores that it may use there)."""
        return ray.get_runtime_context().get_node_id(), sorted(os.sched_getaffinity(0))

    async def start(self, spec: EngineSpec, context: RowContext) -> EngineInfo:
        """Starts the engine.

        Raises:
            EngineError: the model is not there, or the engine refuses its settings.
        """
        self._engine = _start_engine(spec)
        self._context = replace(context, model_revision=self._engine.info.model_revision)
        return self._engine.info

    async def submit(self, rows: list[WorkRow]) -> None:
        """Hands rows to the engine and returns at once; `take` brings them back."""
        for row in rows:
            task = asyncio.create_task(self._run(row))
            # The loop only keeps weak references to tasks.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def take(self) -> Finished:
        """Waits for finished rows, and returns all there are; none if a while passed without.

        Raises:
            EngineDeadError: the engine is gone, and all that it finished was taken.
        """
        if not self._records and self._dead is None:
            try:
                await asyncio.wait_for(self._news.wait(), _LONGEST_WAIT_SECONDS)
                await asyncio.sleep(_COALESCE_SECONDS)
            except TimeoutError:
                pass
        if self._dead is not None and not self._records:
            raise self._dead
        self._news.clear()
        records, self._records = self._records, []
        rows = [row for row, _ in records]
        return Finished(
            [row.unit for row in rows], [row.shard for row in rows], to_batch([record for _, record in records])
        )

    async def stop(self) -> None:
        """Ends the engine; the rows it was at are dropped."""
        for task in self._tasks:
            task.cancel()
        await self._engine.stop()

    async def _run(self, row: WorkRow) -> None:
        context = self._context
        seed = row_seed(context.run_seed, row.source, row.row_index, row.sample, context.variant)
        try:
            if row.values is None:
                raise RowError(row.fault)
            prompt = context.recipe.render(row.values)
            generation = await self._engine.generate(prompt.messages, context.sampling, seed)
            record = finished_record(row, context, seed, prompt, generation)
        except EngineDeadError as error:
            self._dead = error
            self._news.set()
            return
        except RowError as error:
            record = failed_record(row, context, seed, str(error))
        except Exception as error:  # a row that is never answered would hang its job
            record = failed_record(row, context, seed, f"{type(error).__name__}: {error}")
        self._records.append((row, record))
        self._news.set()


def _start_engine(spec: EngineSpec) -> Engine:
    if spec.model.id == "fake":
        return FakeEngine(spec)
    # Found before vllm is imported, which takes 15 s: a misspelt model is told at once.
    path, revision = locate(spec.model)
    from services.vllm_engine import VllmEngine

    return VllmEngine.start(spec, path, revision)


def finished_record(
    row: WorkRow, context: RowContext, seed: int, prompt: Prompt, generation: Generation
) -> dict[str, Any]:
    """One row of ROW_SCHEMA from what the engine wrote."""
    return {
        **_lineage(row, context, seed),
        "text": generation.text,
        "state": ACCEPTED,
        "reason": "",
        "emotion": prompt.emotion,
        "emotions": prompt.emotions,
        "inputs": _json(prompt.inputs),
        "finish_reason": generation.finish_reason,
        "prompt_tokens": generation.prompt_tokens,
        "cached_prompt_tokens": generation.cached_prompt_tokens,
        "output_tokens": generation.output_tokens,
        "attempts": row.attempt + 1,
        "started_at": generation.started_at,
        "duration_seconds": generation.duration_seconds,
    }


def failed_record(row: WorkRow, context: RowContext, seed: int, reason: str) -> dict[str, Any]:
    """One row of ROW_SCHEMA for a row that could not be generated."""
    return {
        **_lineage(row, context, seed),
        "text": "",
        "state": ERROR,
        "reason": _encodable(reason),
        "emotion": "",
        "emotions": [],
        "inputs": _json(row.values or {}),
        "finish_reason": "error",
        "prompt_tokens": 0,
        "cached_prompt_tokens": 0,
        "output_tokens": 0,
        "attempts": row.attempt,
        "started_at": datetime.now(UTC),
        "duration_seconds": 0.0,
    }


def _lineage(row: WorkRow, context: RowContext, seed: int) -> dict[str, Any]:
    return {
        "source": row.source,
        "row_index": row.row_index,
        "sample": row.sample,
        "variant": context.variant,
        "prompt_id": context.recipe.prompt_id,
        "prompt_hash": context.recipe.prompt_hash,
        "model": context.model,
        "model_revision": context.model_revision,
        "seed": seed,
    }


def _json(values: dict[str, Any]) -> str:
    return _encodable(json.dumps(values, ensure_ascii=False, default=str))


def _encodable(text: str) -> str:
    # JSON can smuggle in half of a surrogate pair, which Arrow cannot store.
    return text.encode(errors="replace").decode()

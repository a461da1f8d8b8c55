"""Runs a preview's rows on one engine as a job would, and begins others beside them, so that the engine is as full."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from pipelines.stopping import stop_signals
from schemas.errors import StoppedError
from schemas.job import AugmentJob, Cluster
from schemas.rows import WorkRow
from services.cluster import connected
from services.coordinator import Coordinator
from services.engine import EngineInfo
from services.placement import cpus_of_each, replica_spec
from services.pool import ReplicaPool
from services.records import RowContext
from services.replica import OVERSUBSCRIPTION, Finished
from services.terminal import Bar
from services.warm_pool import find_pool

_log = logging.getLogger("kindling")

# Rows that only fill the engine are cut off at this part of max_tokens. One of three is cut off sooner, at one of so
# many places: their ends tell what steps take while the engine is full and others are begun, as in the job.
_CUT_OFF_AT, _SOONER = 1 / 3, 8


@dataclass(frozen=True)
class Begun:
    """A row that was only begun.

    Attributes:
        unit: of the row.
        record: of ROW_SCHEMA; its text is not the job's.
        tokens: at which it was cut off.
    """

    unit: int
    record: dict[str, Any]
    tokens: int


@dataclass(frozen=True)
class Ran:
    """What the engine did.

    Attributes:
        records: rows of ROW_SCHEMA that came to their end, in the order asked for.
        begun: the others.
        info: of the engine.
        start_seconds: until it was up; near 0 where a warm pool's was.
        overhead_seconds: from then on, beyond the time from the first row's start to the last one's end.
        replicas: that the whole job will have.
        gpus: of each.
        shared: whether other jobs used it meanwhile.
    """

    records: list[dict[str, Any]]
    begun: list[Begun]
    info: EngineInfo
    start_seconds: float
    overhead_seconds: float
    replicas: int
    gpus: float
    shared: bool


def run(
    job: AugmentJob, contexts: Mapping[str, RowContext], rows: Sequence[WorkRow], others: Sequence[WorkRow], of: float
) -> Ran:
    """Runs the rows.

    Args:
        contexts: of each variant of the job.
        others: rows that may be begun; as many are as fill the engine no further than the job will.
        of: rows that the whole job generates.

    Raises:
        EngineError: the model or engine cannot be started.
        StoppedError: a signal came.
    """
    places = range(_SOONER + 1)
    cut_off = {(name, each): _cut_off(context, each) for name, context in contexts.items() for each in places}
    known = {**contexts, **{context.variant: context for context in cut_off.values()}}
    filling: dict[int, RowContext] = {}
    records: dict[int, dict[str, Any]] = {}
    up: list[float] = []
    with stop_signals(grace_seconds=0) as signalled, connected(job.cluster.address):
        _, warm = find_pool(job.model, job.engine)
        replicas = len(warm) or job.cluster.replicas
        gpus = replica_spec(job.model, job.engine, job.cluster, warn=not warm).gpus
        _log.info("running %d of %.0f rows, and others beside them that fill the engine", len(rows), of)
        asked = monotonic()
        pool = ReplicaPool(job.model, job.engine, _one_of(job.cluster), known, adopt_at_most=1)

        def work() -> Iterator[WorkRow]:
            yield from rows
            # Asked for when an engine is up, which tells how many it runs.
            for row, sooner in to_begin(others, len(rows), pool.members[0].info.max_num_seqs, of / replicas):
                filling[row.unit] = cut_off[row.variant, sooner]
                yield replace(row, variant=filling[row.unit].variant)

        def sink(finished: Finished) -> None:
            records.update(zip(finished.units, finished.batch.to_pylist(), strict=True))
            bar.update(description="rows", completed=sum(row.unit in records for row in rows))

        try:
            with Bar("starting an engine", len(rows)) as bar:
                most = len(rows) + len(others)
                done = Coordinator(pool, known, work(), most, sink, signalled, lambda _: up.append(monotonic())).run()
            ended = monotonic()
            (member,) = pool.members
        finally:
            pool.stop()
    if not done:
        raise StoppedError("", None, "by a signal; a preview keeps nothing", "the same command begins it anew")
    return Ran(
        records=[records[row.unit] for row in rows],
        begun=[Begun(unit, records[unit], each.sampling["max_tokens"]) for unit, each in filling.items()],
        info=member.info,
        start_seconds=up[0] - asked,
        overhead_seconds=max(ended - up[-1] - max(ends(records.values())), 0.0),
        replicas=replicas,
        gpus=gpus,
        shared=member.share < math.ceil(member.info.max_num_seqs * OVERSUBSCRIPTION),
    )


def to_begin(others: Sequence[WorkRow], rows: int, slots: int, of: float) -> list[tuple[WorkRow, int]]:
    """Rows that fill an engine beside those that come to their end, and at which place each is cut off sooner, or 0.

    They are so many that one follows on another until those rows come to their end: cut off at 0.28 of max_tokens
    on average, four in each slot that is left.

    Args:
        rows: that come to their end.
        slots: of the engine.
        of: rows that it would run of the whole job.
    """
    full = min(slots, math.ceil(of))
    most = 4 * max(full - rows, 0)
    return [(row, number // 3 % _SOONER + 1 if number % 3 == 1 else 0) for number, row in enumerate(others[:most])]


def cut_off_at(max_tokens: int, sooner: int) -> int:
    """Tokens at which such a row is cut off."""
    return max(math.ceil(max_tokens * _CUT_OFF_AT * (sooner / (_SOONER + 1) if sooner else 1)), 1)


def ends(records: Iterable[Mapping[str, Any]]) -> list[float]:
    """When each of the rows had its last token, in seconds from the first one's start."""
    records = list(records)
    first = min(record["started_at"] for record in records)
    return [(record["started_at"] - first).total_seconds() + record["duration_seconds"] for record in records]


def _one_of(cluster: Cluster) -> Cluster:
    """One replica that has what each of the job's has."""
    cpus = cluster.cpus_per_replica or cpus_of_each(cluster.replicas)
    return cluster.model_copy(update={"replicas": 1, "cpus_per_replica": cpus})


def _cut_off(context: RowContext, sooner: int) -> RowContext:
    tokens = cut_off_at(context.sampling["max_tokens"], sooner)
    sampling = {**context.sampling, "max_tokens": tokens, "min_tokens": min(context.sampling["min_tokens"], tokens)}
    return replace(context, variant=f"{context.variant} to {tokens} tokens", sampling=sampling)

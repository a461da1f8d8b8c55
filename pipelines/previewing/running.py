"""Runs a preview's rows on one engine as a job would, and begins others beside them, so that the engine is as full."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from pipelines.stopping import stop_signals
from schemas.augment import AugmentJob
from schemas.errors import StoppedError
from schemas.job import Cluster
from schemas.rows import FinishedRows, WorkRow
from services.cluster import connect_to_ray
from services.engines.engine import EngineInfo
from services.observability.terminal import Bar
from services.replicas.coordinator import Coordinator
from services.replicas.members import Member
from services.replicas.placement import cpus_per_actor, replica_spec
from services.replicas.replica_pool import ReplicaPool
from services.replicas.row_records import VariantSettings
from services.replicas.sessions import OVERSUBSCRIPTION
from services.replicas.warm_pool import find_pool

_log = logging.getLogger("kindling")

# Rows that only fill the engine are cut off at this part of max_tokens. One of three is cut off sooner, at one of so
# many places: their ends tell what steps take while the engine is full and others are begun, as in the job.
_CUT_OFF_AT, _SOONER = 1 / 3, 8
# Those that are begun may take as long to their end as the rows asked for took, or this: they are a third as long.
_LEAST_DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Begun:
    """A row that was only begun.

    Attributes:
        output_id: number of its output in the run.
        record: of ROW_SCHEMA; its text is not the job's.
        tokens: at which it was cut off.
    """

    output_id: int
    record: dict[str, Any]
    tokens: int


@dataclass(frozen=True)
class Ran:
    """What the engine did.

    Attributes:
        records: rows of ROW_SCHEMA that came to their end, in the order asked for.
        begun: the others; none where not all of them came to their end, as the short ones did first.
        undisturbed: whether they did, and no engine died.
        most_tokens: that an output may have.
        info: of the engine.
        start_seconds: until it was up, Ray included; little where a warm pool's was.
        overhead_seconds: from then on, beyond the time from the first row's start to the last one's end.
        stop_seconds: from the last row's end, until engine and Ray were left.
        replicas: that the whole job will have.
        gpus: of each.
        shared: whether other jobs used it meanwhile.
    """

    records: list[dict[str, Any]]
    begun: list[Begun]
    undisturbed: bool
    most_tokens: int
    info: EngineInfo
    start_seconds: float
    overhead_seconds: float
    stop_seconds: float
    replicas: int
    gpus: float
    shared: bool


class _Rows:
    """The rows that are asked for, the others that are begun after them, and what came of each.

    Attributes:
        variants: settings of each variant, by its name; rows that are cut off have variants of their own.
        most: rows that there may be.
    """

    def __init__(
        self, variants: Mapping[str, VariantSettings], asked_for: Sequence[WorkRow], others: Sequence[WorkRow]
    ) -> None:
        places = range(_SOONER + 1)
        self._cut_off = {
            (name, each): _cut_off(settings, each) for name, settings in variants.items() for each in places
        }
        self.variants = {**variants, **{settings.variant: settings for settings in self._cut_off.values()}}
        self.most = len(asked_for) + len(others)
        self._asked_for, self._others = asked_for, others
        self._filling: dict[int, VariantSettings] = {}
        self._records: dict[int, dict[str, Any]] = {}

    def __iter__(self) -> Iterator[WorkRow]:
        yield from self._asked_for
        for number, row in enumerate(self._others):
            settings = self._filling[row.output_id] = self._cut_off[row.variant, place_of(number)]
            yield replace(row, variant=settings.variant)

    def take(self, finished: FinishedRows) -> None:
        """Keeps rows that came to their end."""
        self._records.update(zip(finished.output_ids, finished.batch.to_pylist(), strict=True))

    def ended(self) -> list[dict[str, Any]]:
        """Those that are asked for, so far, in their order."""
        return [self._records[row.output_id] for row in self._asked_for if row.output_id in self._records]

    def all_ended(self) -> bool:
        """Whether all that are asked for are there."""
        return len(self.ended()) == len(self._asked_for)

    def begun(self) -> list[Begun]:
        """The others, so far."""
        return [
            Begun(output_id, self._records[output_id], settings.sampling["max_tokens"])
            for output_id, settings in self._filling.items()
            if output_id in self._records
        ]

    def seconds(self) -> float:
        """From the first one's start to the last one's end."""
        return max(ends(self._records.values()))


def run(
    job: AugmentJob, variants: Mapping[str, VariantSettings], rows: Sequence[WorkRow], others: Sequence[WorkRow]
) -> Ran:
    """Runs the rows.

    Args:
        variants: settings of each variant of the job, by its name.
        others: rows that may be begun: one after another, until those that were asked for are there.

    Raises:
        EngineError: the model or engine cannot be started.
        StoppedError: a signal came.
    """
    work = _Rows(variants, rows, others)
    up: list[tuple[float, EngineInfo, int]] = []
    asked, drain_until = monotonic(), math.inf
    with stop_signals(grace_seconds=0) as signalled, connect_to_ray(job.cluster.address):
        _, warm = find_pool(job.model, job.engine)
        replicas = len(warm) or job.cluster.replicas
        gpus = replica_spec(job.model, job.engine, job.cluster, warn=not warm).gpus
        _log.info("running %d rows, and others beside them that fill the engine", len(rows))
        pool = ReplicaPool(job.model, job.engine, _one_of(job.cluster), work.variants, max_adopted=1)

        def stop_within() -> float | None:
            nonlocal drain_until
            left = signalled()
            if left is not None or not work.all_ended():
                return left
            # The begun ones come to their end: short ones alone would tell of short outputs.
            if drain_until == math.inf:
                drain_until = monotonic() + max(monotonic() - up[-1][0], _LEAST_DRAIN_SECONDS)
            return max(drain_until - monotonic(), 0.0)

        def sink(finished: FinishedRows) -> None:
            work.take(finished)
            bar.update(description="rows", completed=len(work.ended()))

        def on_ready(member: Member) -> None:
            up.append((monotonic(), member.info, member.share))

        try:
            with Bar("starting an engine", len(rows)) as bar:
                coordinator = Coordinator(pool, work.variants, iter(work), work.most, sink, stop_within, on_ready)
                coordinator.run()
            ended = monotonic()
            undisturbed = not coordinator.in_flight and not pool.restarts and pool.members[0].phase == "serving"
        finally:
            pool.stop()
    if not work.all_ended():
        raise StoppedError("", None, "by a signal; a preview keeps nothing", "the same command begins it anew")
    up_at, info, share = up[-1]
    return Ran(
        records=work.ended(),
        begun=work.begun() if undisturbed else [],
        undisturbed=undisturbed,
        most_tokens=max(settings.sampling["max_tokens"] for settings in variants.values()),
        info=info,
        start_seconds=up[0][0] - asked,
        stop_seconds=monotonic() - ended,
        overhead_seconds=max(ended - up_at - work.seconds(), 0.0),
        replicas=replicas,
        gpus=gpus,
        shared=share < math.ceil(info.max_num_seqs * OVERSUBSCRIPTION),
    )


def place_of(number: int) -> int:
    """The place at which such a row is cut off, by its number; 0 for where most are."""
    return number // 3 % _SOONER + 1 if number % 3 == 1 else 0


def cut_off_at(max_tokens: int, place: int) -> int:
    """Tokens at which a row is cut off there."""
    return max(math.ceil(max_tokens * _CUT_OFF_AT * (place / (_SOONER + 1) if place else 1)), 1)


def ends(records: Iterable[Mapping[str, Any]]) -> list[float]:
    """When each of the rows had its last token, in seconds from the first one's start."""
    records = list(records)
    first = min(record["started_at"] for record in records)
    return [(record["started_at"] - first).total_seconds() + record["duration_seconds"] for record in records]


def _one_of(cluster: Cluster) -> Cluster:
    """One replica that has what each of the job's has."""
    cpus = cluster.cpus_per_replica or cpus_per_actor(cluster.replicas)
    return cluster.model_copy(update={"replicas": 1, "cpus_per_replica": cpus})


def _cut_off(settings: VariantSettings, sooner: int) -> VariantSettings:
    tokens = cut_off_at(settings.sampling["max_tokens"], sooner)
    sampling = {**settings.sampling, "max_tokens": tokens, "min_tokens": min(settings.sampling["min_tokens"], tokens)}
    return replace(settings, variant=f"{settings.variant} to {tokens} tokens", sampling=sampling)

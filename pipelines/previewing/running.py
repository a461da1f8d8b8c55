"""Runs a preview's rows on one engine as a job would, among other rows that keep the engine as full as the job does.

Invariant: a row that was asked for runs with the settings that the job gives it; only filler rows are cut off early.
"""

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
from schemas.text import clock, plural
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

# Filler rows are cut off at this share of max_tokens. Every third one is cut off earlier, at one of so many limits: the
# times at which these end show what a step costs while the engine is full and rows begin, as in the job.
_LIMIT_SHARE, _EARLY_LIMITS = 1 / 3, 8
# Once the rows asked for have ended, filler rows may take as long to their end as those rows took, or this long.
_MIN_DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class CutOffRow:
    """A filler row, which was cut off early.

    Attributes:
        output_id: number of its output in the run.
        variant: name of its variant in the job.
        record: row of ROW_SCHEMA; its text is not the one that the job would write.
        limit: number of tokens at which it was cut off.
    """

    output_id: int
    variant: str
    record: dict[str, Any]
    limit: int


@dataclass(frozen=True)
class EngineRun:
    """Records of the rows that ran on the engine, and measurements.

    Attributes:
        records: rows of ROW_SCHEMA of the rows asked for, in the order asked for.
        cut_off: filler rows. Empty unless `undisturbed`: of rows that did not all end, the short ones ended first.
        undisturbed: whether all filler rows ended, and no engine died.
        max_tokens: the largest length that an output of the job may have.
        info: the engine's report on itself.
        start_seconds: time until the engine was up, Ray included; short where it belongs to a warm pool.
        overhead_seconds: time from then on, without the time from the first row's start to the last row's end.
        stop_seconds: time from the last row's end until engine and Ray were left.
        replicas: number of replicas that the whole job will have.
        gpus_per_replica: GPUs of each replica.
        shared: whether other jobs used the engine meanwhile.
    """

    records: list[dict[str, Any]]
    cut_off: list[CutOffRow]
    undisturbed: bool
    max_tokens: int
    info: EngineInfo
    start_seconds: float
    overhead_seconds: float
    stop_seconds: float
    replicas: int
    gpus_per_replica: float
    shared: bool


class _Rows:
    """Rows that are asked for, filler rows that begin after them, and the records of those that ended.

    Attributes:
        variants: settings of each variant, by its name; rows that are cut off have variants of their own.
        total: number of rows that may run.
    """

    def __init__(
        self, variants: Mapping[str, VariantSettings], asked_for: Sequence[WorkRow], fillers: Sequence[WorkRow]
    ) -> None:
        self._cut_off = {
            (name, place): _cut_off_settings(settings, place)
            for name, settings in variants.items()
            for place in range(_EARLY_LIMITS + 1)
        }
        self.variants = {**variants, **{settings.variant: settings for settings in self._cut_off.values()}}
        self.total = len(asked_for) + len(fillers)
        self._asked_for, self._fillers = asked_for, fillers
        self._begun_fillers: list[tuple[WorkRow, int]] = []
        self._records: dict[int, dict[str, Any]] = {}

    def __iter__(self) -> Iterator[WorkRow]:
        yield from self._asked_for
        for number, row in enumerate(self._fillers):
            settings = self._cut_off[row.variant, limit_place(number)]
            self._begun_fillers.append((row, settings.sampling["max_tokens"]))
            yield replace(row, variant=settings.variant)

    def take(self, finished: FinishedRows) -> None:
        """Keeps the records of rows that ended."""
        self._records.update(zip(finished.output_ids, finished.batch.to_pylist(), strict=True))

    def records(self) -> list[dict[str, Any]]:
        """Returns the records so far of the rows asked for, in their order."""
        return [self._records[row.output_id] for row in self._asked_for if row.output_id in self._records]

    def all_ended(self) -> bool:
        """Returns whether all rows asked for have ended."""
        return len(self.records()) == len(self._asked_for)

    def cut_off(self) -> list[CutOffRow]:
        """Returns the filler rows that have ended so far."""
        return [
            CutOffRow(row.output_id, row.variant, self._records[row.output_id], limit)
            for row, limit in self._begun_fillers
            if row.output_id in self._records
        ]

    def seconds(self) -> float:
        """Returns the time from the first row's start to the last row's end."""
        return max(end_seconds(self._records.values()))


def run_rows(
    job: AugmentJob, variants: Mapping[str, VariantSettings], rows: Sequence[WorkRow], fillers: Sequence[WorkRow] = ()
) -> EngineRun:
    """Runs rows to their end, and filler rows beside them. Nothing is written.

    Args:
        variants: settings of each variant of the job, by its name.
        fillers: rows that begin one after another until the rows asked for have ended.

    Raises:
        EngineError: the model or engine cannot be started.
        StoppedError: a stop signal came before the rows ended.
    """
    work = _Rows(variants, rows, fillers)
    ready: list[tuple[float, EngineInfo, int]] = []  # when a replica got ready, its engine, its share of requests
    asked_at, drain_until = monotonic(), math.inf
    with stop_signals(0, is_resumable=False) as stop_within, connect_to_ray(job.cluster.address):
        _, warm = find_pool(job.model, job.engine, job.seeds)
        replicas = len(warm) or job.cluster.replicas
        gpus = replica_spec(job.model, job.engine, job.cluster, warn=not warm).gpus
        beside = ", and others beside them that fill the engine" if fillers else ""
        _log.info("running %s%s", plural(len(rows), "row"), beside)
        pool = ReplicaPool(
            job.model, job.engine, _one_replica(job.cluster), work.variants, max_adopted=1, seeds=job.seeds,
            seed=job.seed,
        )  # fmt: skip

        def seconds_left() -> float | None:
            nonlocal drain_until
            if not ready:
                bar.show_phase(pool.start_phase())
            left = stop_within()
            if left is not None or not work.all_ended():
                return left
            # Filler rows run to their limits: the short ones end first, and alone would say that outputs are short.
            if drain_until == math.inf:
                seconds = max(monotonic() - ready[-1][0], _MIN_DRAIN_SECONDS)
                if coordinator.in_flight:
                    _log.info("the rows are through; the others beside them get up to %s to end", clock(seconds))
                drain_until = monotonic() + seconds
            return max(drain_until - monotonic(), 0.0)

        def sink(finished: FinishedRows) -> None:
            work.take(finished)
            bar.update(description="rows", completed=len(work.records()))

        def on_ready(member: Member) -> None:
            ready.append((monotonic(), member.info, member.share))

        try:
            with Bar("starting an engine", len(rows)) as bar:
                coordinator = Coordinator(
                    pool,
                    work.variants,
                    iter(work),
                    work.total,
                    sink,
                    seconds_left,
                    on_ready,
                    is_resumable=lambda: False,
                )
                coordinator.run()
            ended_at = monotonic()
            undisturbed = not coordinator.in_flight and not pool.restarts and pool.members[0].phase == "serving"
        finally:
            pool.stop()
    if not work.all_ended():
        raise StoppedError("", None, "by a signal; nothing is kept", "the same command begins it anew")
    ready_at, info, share = ready[-1]
    return EngineRun(
        records=work.records(),
        # A filler row of several generations or tries is cut off in each of them, and tells nothing of whole ones.
        cut_off=work.cut_off() if undisturbed and not job.has_programs else [],
        undisturbed=undisturbed,
        max_tokens=job.max_row_tokens,
        info=info,
        start_seconds=ready[0][0] - asked_at,
        stop_seconds=monotonic() - ended_at,
        overhead_seconds=max(ended_at - ready_at - work.seconds(), 0.0),
        replicas=replicas,
        gpus_per_replica=gpus,
        shared=share < math.ceil(info.max_num_seqs * OVERSUBSCRIPTION),
    )


def limit_place(number: int) -> int:
    """Returns the place in the order of limits of a filler row with this number; 0 is the usual limit."""
    return number // 3 % _EARLY_LIMITS + 1 if number % 3 == 1 else 0


def token_limit(max_tokens: int, place: int) -> int:
    """Returns the number of tokens at which a filler row is cut off."""
    share = place / (_EARLY_LIMITS + 1) if place else 1
    return max(math.ceil(max_tokens * _LIMIT_SHARE * share), 1)


def end_seconds(records: Iterable[Mapping[str, Any]]) -> list[float]:
    """Returns when each row had its last token, in seconds from the first row's start."""
    records = list(records)
    first = min(record["started_at"] for record in records)
    return [(record["started_at"] - first).total_seconds() + record["duration_seconds"] for record in records]


def _one_replica(cluster: Cluster) -> Cluster:
    """Returns settings of one replica with the resources that each replica of the job has."""
    cpus = cluster.cpus_per_replica or cpus_per_actor(cluster.replicas)
    return cluster.model_copy(update={"replicas": 1, "cpus_per_replica": cpus})


def _cut_off_settings(settings: VariantSettings, place: int) -> VariantSettings:
    limit = token_limit(settings.sampling["max_tokens"], place)
    sampling = {**settings.sampling, "max_tokens": limit, "min_tokens": min(settings.sampling["min_tokens"], limit)}
    return replace(settings, variant=f"{settings.variant} to {limit} tokens", sampling=sampling)

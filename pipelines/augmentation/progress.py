"""Progress of a job: counted once, shown in the terminal or the log, and in Prometheus."""

import logging
import threading
from collections import Counter
from math import isnan, nan
from statistics import fmean
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.augmentation.eta import Eta, Pace, Rates, left_to_generate
from pipelines.augmentation.target import rows_left
from schemas.outcomes import Outcomes, by_frequency
from schemas.row_programs import TOKEN_COLUMNS, all_tokens
from schemas.rows import ACCEPTED, ERROR, STATES, counts_text
from schemas.run import Manifest, RunRecord
from schemas.text import clock, plural
from services.observability.series import AugmentMetrics
from services.observability.start_phases import Phase
from services.observability.terminal import LINE_SECONDS, Bar
from services.replicas.replica_pool import ReplicaPool
from services.storage.shard_index import Totals

_log = logging.getLogger("kindling")

# Gauges and the bar are updated at most this often.
_PUBLISH_SECONDS = 0.2
_SAVE_COST_SECONDS = 60.0
# A job warns where this share of its rows failed: while it runs once so many rows are finished, and at its end.
_FAILED_SHARE, _MIN_ROWS_TO_WARN = 0.1, 100


class AugmentProgress:
    """Counts rows and tokens as the writer takes them.

    Args:
        run: the run; rows of its earlier starts are counted by `on_committed_before` and `on_logged_before`.
        metrics: Prometheus series of the job.
    """

    def __init__(self, run: RunRecord, metrics: AugmentMetrics) -> None:
        self.run, self.metrics = run, metrics
        self.total = run.outputs
        self._target: int | None = run.job.get("target_accepted")
        self.outcomes = Outcomes()
        self.shards = 0
        self.output_tokens = 0
        self.generated_here = 0
        self.coordinator_seconds = self.writer_seconds = 0.0
        self._accepted_tokens_here = self._refused_here = self._in_flight = 0
        self._lock = threading.Lock()
        self._serving_since: float | None = None
        self._ended_at: float | None = None
        self._pace = Pace()
        self._due_at = 0.0
        self._published_at: float | None = None
        self._cost_due_at = monotonic() + _SAVE_COST_SECONDS
        self._restarts = 0
        self._has_warned = False
        # The cost of a run is that of all its starts.
        self.replica_seconds = run.replica_seconds
        metrics.replica_seconds.inc(self.replica_seconds)

    @property
    def rows(self) -> Counter[str]:
        """Number of rows by state, in all starts of the run."""
        return self.outcomes.counts

    @property
    def finished(self) -> int:
        """Number of rows that reached a final state, in all starts of the run."""
        return sum(self.rows.values())

    def on_committed_before(self, totals: Totals) -> None:
        """Counts the shards that earlier starts committed, so that the counters agree with the shards on disk."""
        self._count(totals.outcomes, totals.prompt_tokens, totals.cached_prompt_tokens, totals.output_tokens)
        self.metrics.accepted_tokens.inc(totals.accepted_output_tokens)
        self.shards += totals.shards
        self.metrics.shards.inc(totals.shards)

    def on_logged_before(self, batch: pa.RecordBatch) -> None:
        """Counts rows that earlier starts finished in shards that are still open."""
        self._count_rows(batch)

    def on_serving(self) -> None:
        """Records that a replica is up; rates count from the first replica on."""
        self._serving_since = self._serving_since or monotonic()
        self._pace.begin(self._serving_since)

    def on_end(self) -> None:
        """Stops the clock of the rates: the last row is durable."""
        self._ended_at = monotonic()

    def on_rows(self, batch: pa.RecordBatch) -> None:
        """Counts rows that were written to the log."""
        output, accepted = self._count_rows(batch)
        # A row that was refused before it was sent to an engine has no duration.
        durations = [seconds for seconds in batch["duration_seconds"].to_pylist() if seconds]
        for seconds in durations:
            self.metrics.request_seconds.observe(seconds)
        self.generated_here += batch.num_rows
        self._accepted_tokens_here += accepted
        self._refused_here += batch.num_rows - len(durations)
        if durations:
            self._pace.add(monotonic(), len(durations), output, accepted, max(durations))

    def on_commit(self, manifest: Manifest) -> None:
        """Counts a shard that was committed, and logs it."""
        if not manifest.retry:
            self.shards += 1
            self.metrics.shards.inc()
        facts = {
            "event": "shard",
            "run": self.run.name,
            **manifest.model_dump(include={"shard", "retry", "counts", "output_tokens", "started_at", "finished_at"}),
        }
        _log.info("shard %d committed: %s", manifest.shard, counts_text(manifest.counts), extra={"facts": facts})

    def on_target(self, totals: Totals) -> int:
        """Takes the counts of the committed shards for those of the run, once its target is reached.

        Returns:
            number of rows that were finished behind the target, which no shard has.
        """
        self.total, dropped = self.run.outputs, self.finished - totals.outcomes.counts.total()
        # In place: the card of the run has the same counts.
        vars(self.outcomes).update(vars(totals.outcomes))
        self.output_tokens, self.shards = totals.output_tokens, totals.shards
        return dropped

    def rates(self) -> Rates:
        """Returns the rates of the last minute; zero before the first row."""
        return self._pace.rates(self._ended_at or monotonic())

    def eta(self) -> Eta | None:
        """Estimates when the last row will be finished; None before there is enough history."""
        generated = self.generated_here - self._refused_here
        rows = rows_left(self.total, self._target, self.rows)
        left = left_to_generate(rows, self._in_flight, generated, self._refused_here)
        return self._pace.eta(self._ended_at or monotonic(), left)

    def is_cost_due(self) -> bool:
        """Returns whether it is time to save `replica_seconds`: a killed start does not save them at its end."""
        if (now := monotonic()) < self._cost_due_at:
            return False
        self._cost_due_at = now + _SAVE_COST_SECONDS
        return True

    def longest_row_seconds(self) -> float:
        """Returns the longest time that a recent row was with its engine; 0 before the first row of this start."""
        return self._pace.longest_row(monotonic())

    def goodput(self) -> float:
        """Returns the output tokens of accepted rows a second, since the first replica of this start was up."""
        return self._accepted_tokens_here / self.serving_seconds if self.serving_seconds else 0.0

    @property
    def serving_seconds(self) -> float:
        """Seconds since the first replica of this start was up, so without the start-up of engines."""
        if self._serving_since is None:
            return 0.0
        return (self._ended_at or monotonic()) - self._serving_since

    def due(self) -> bool:
        """Returns whether it is time to show and publish again; cheap, as it is called thousands of times a second."""
        now = monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + _PUBLISH_SECONDS
        return True

    def publish(self, pool: ReplicaPool) -> None:
        """Sets the gauges, from the counts and from the state of the replicas."""
        metrics, run = self.metrics, self.run.name
        serving = [member for member in pool.members if member.phase == "serving"]
        starting = sum(member.phase == "starting" for member in pool.members)
        now = monotonic()
        paid = sum(member.is_paid for member in pool.members) * (now - (self._published_at or now))
        self.replica_seconds += paid
        metrics.replica_seconds.inc(paid)
        self._published_at = now
        metrics.replicas.labels(run, "serving").set(len(serving))
        metrics.replicas.labels(run, "starting").set(starting)
        metrics.restarts.inc(pool.restarts - self._restarts)
        self._restarts = pool.restarts
        self._in_flight = sum(len(member.rows) for member in pool.members)
        metrics.in_flight.set(self._in_flight)
        if usages := [member.kv_cache_usage for member in serving if not isnan(member.kv_cache_usage)]:
            metrics.kv_cache_usage.set(fmean(usages))
        metrics.goodput.set(self.goodput())
        metrics.goodput_last_minute.set(self.rates().accepted_tokens)
        eta = self.eta() or Eta(nan, nan, nan)
        metrics.eta.set(eta.seconds)
        metrics.eta_bound.labels(run, "low").set(eta.low)
        metrics.eta_bound.labels(run, "high").set(eta.high)

    def warn_of_failures(self, min_rows: int = _MIN_ROWS_TO_WARN) -> None:
        """Logs a warning, once, where many of the finished rows failed.

        Args:
            min_rows: number of finished rows below which nothing is said.
        """
        failed, finished = self.rows[ERROR], self.finished
        if self._has_warned or finished < min_rows or failed < _FAILED_SHARE * finished or not failed:
            return
        self._has_warned = True
        reason, rows = next(iter(by_frequency(self.outcomes.errors).items()))
        _log.warning(
            "%d of %d rows failed (%.0f%%); the commonest reason: %d x %s. `kindling status` lists the reasons, and "
            "errors/ has each row; once the job is corrected, --retry errors generates them again",
            failed, finished, 100 * failed / finished, rows, reason,
        )  # fmt: skip

    def line(self) -> str:
        """Returns a log line: `312/400 rows (2 errors), 148 output tokens/s, about 00:35 left`."""
        eta, rate = self.eta(), self.rates().output_tokens
        failed = f" ({plural(self.rows[ERROR], 'error')})" if self.rows[ERROR] else ""
        speed = f", {rate:.0f} output tokens/s" if rate else ""  # none in a minute in which no row ended
        left = f", about {clock(eta.seconds)} left" if eta else ""
        return f"{self.finished}/{plural(self.total, 'row')}{failed}{speed}{left}"

    def facts(self) -> dict[str, Any]:
        """Returns the figures of the log line, and more, as keys and values for `--log-format json`."""
        eta, rates = self.eta(), self.rates()
        return {
            "event": "progress",
            "run": self.run.name,
            "rows": dict(self.rows),
            "rows_total": self.total,
            "shards": self.shards,
            "output_tokens_per_second": round(rates.output_tokens, 1),
            "goodput_tokens_per_second": round(rates.accepted_tokens, 1),
            "eta_seconds": round(eta.seconds, 1) if eta else None,
        }

    def _count_rows(self, batch: pa.RecordBatch) -> tuple[int, int]:
        """Counts rows, and returns the output tokens of all rows and of the accepted rows among them."""
        outcomes = Outcomes.of(batch)
        prompt, cached, output = (all_tokens(batch, name) for name in TOKEN_COLUMNS)
        with self._lock:
            self._count(outcomes, prompt, cached, output)
        accepted = pc.sum(pc.filter(batch["output_tokens"], pc.equal(batch["state"], ACCEPTED))).as_py() or 0
        self.metrics.accepted_tokens.inc(accepted)
        return output, accepted

    def _count(self, outcomes: Outcomes, prompt: int, cached: int, output: int) -> None:
        run = self.run.name
        outcomes = self.outcomes.add(outcomes)
        for state in STATES:
            self.metrics.rows.labels(run, state).inc(outcomes.counts[state])
        metrics = self.metrics
        for reasons, counter in (
            (outcomes.rejects, metrics.rejects),
            (outcomes.errors, metrics.errors),
            (outcomes.tries, metrics.tries),
        ):
            for reason, rows in reasons.items():
                counter.labels(run, reason).inc(rows)
        self.metrics.cut_off.inc(outcomes.cut_off)
        self.output_tokens += output
        self.metrics.tokens.labels(run, "prompt").inc(prompt)
        self.metrics.tokens.labels(run, "output").inc(output)
        self.metrics.cached_prompt_tokens.inc(cached)
        self.metrics.progress.set(self.finished / self.total)


class Display:
    """Shows an AugmentProgress on stderr: a bar on a terminal, plain lines in a log."""

    def __init__(self, progress: AugmentProgress) -> None:
        self._progress = progress
        self._bar = Bar("starting engines", progress.total)
        self._logged_at = monotonic()

    def __enter__(self) -> "Display":
        self._bar.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.update()
        self._bar.__exit__(*exc)

    def show_stopping(self) -> None:
        """Shows that the engines are stopped, which takes some seconds."""
        self._bar.update(description="stopping the engines", note="")
        if not self._bar.shown:
            _log.info("stopping the engines")

    def update(self, starting: Phase | None = None) -> None:
        """Updates the bar; without a terminal it logs a line once a minute. Cheap to call often.

        Args:
            starting: phase of the start of engines; None once one is up.
        """
        progress = self._progress
        if starting is not None:
            self._bar.update(completed=progress.finished)
            self._bar.show_phase(starting)
        elif self._bar.shown:
            eta, rate = progress.eta(), progress.rates().output_tokens
            notes = [f"{rate:.0f} tok/s"] if rate else []
            notes += [f"{clock(eta.seconds)} left"] if eta else []
            self._bar.update(completed=progress.finished, note=", ".join(notes), description="rows")
        elif monotonic() - self._logged_at > LINE_SECONDS:
            self._logged_at = monotonic()
            _log.info("%s", progress.line(), extra={"facts": progress.facts()})

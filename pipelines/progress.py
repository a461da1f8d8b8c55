"""How far a job is: counted once, told to the terminal or the log, and to Prometheus."""

import logging
import threading
from collections import Counter, deque
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.rows import ACCEPTED, ERROR, REJECTED, STATES, rule_of
from schemas.run import Manifest, RunRecord
from services.metrics import JobMetrics
from services.shard_index import Totals
from services.terminal import LINE_SECONDS, Bar, clock

_log = logging.getLogger("kindling")

# Gauges and the bar are set this often.
_PUBLISH_SECONDS = 0.2
# The rates shown are over this long: short enough to see a change, long enough for rows that take a minute.
_WINDOW_SECONDS = 60.0


class Progress:
    """Counts rows and tokens as the writer takes them.

    Args:
        run: the run; its committed shards are told by `on_committed_before`.
        metrics: the job's Prometheus series.
    """

    def __init__(self, run: RunRecord, metrics: JobMetrics) -> None:
        self.run, self.metrics = run, metrics
        self.total = run.outputs
        self.rows: Counter[str] = Counter()
        self.shards = 0
        self.output_tokens = 0
        self.generated_here = 0
        self.coordinator_seconds = self.writer_seconds = 0.0
        self._accepted_tokens_here = 0
        self._lock = threading.Lock()
        self._serving_since: float | None = None
        self._ended_at: float | None = None
        self._recent: deque[tuple[float, int, int]] = deque()
        self._told_at = -_PUBLISH_SECONDS

    @property
    def finished(self) -> int:
        """Rows that reached a terminal state, in all starts of the run."""
        return sum(self.rows.values())

    def on_committed_before(self, totals: Totals) -> None:
        """Counts the shards that earlier starts committed, so that counters equal the shards."""
        self._count(totals.counts, totals.prompt_tokens, totals.cached_prompt_tokens, totals.output_tokens)
        self._count_rejects(totals.rejects)
        self.shards += totals.shards
        self.metrics.shards.inc(totals.shards)

    def on_serving(self) -> None:
        """A replica is up: rates count from the first one on."""
        self._serving_since = self._serving_since or monotonic()

    def on_end(self) -> None:
        """The last row is durable: the clock of the rates stands still."""
        self._ended_at = monotonic()

    def on_rows(self, batch: pa.RecordBatch, recovered: bool) -> None:
        """Counts rows that were written to the log."""
        states = Counter(batch["state"].to_pylist())
        prompt, cached, output = (
            pc.sum(batch[name]).as_py() or 0 for name in ("prompt_tokens", "cached_prompt_tokens", "output_tokens")
        )
        with self._lock:
            self._count(states, prompt, cached, output)
        if states[REJECTED]:
            reasons = pc.filter(batch["reason"], pc.equal(batch["state"], REJECTED)).to_pylist()
            self._count_rejects(Counter(map(rule_of, reasons)))
        if recovered:
            return
        for seconds in batch["duration_seconds"].to_pylist():
            if seconds:  # it was sent to an engine
                self.metrics.seconds.observe(seconds)
        accepted = pc.sum(pc.filter(batch["output_tokens"], pc.equal(batch["state"], ACCEPTED))).as_py() or 0
        self.generated_here += batch.num_rows
        self._accepted_tokens_here += accepted
        self._remember(batch.num_rows, output)

    def on_commit(self, manifest: Manifest) -> None:
        """Counts a shard that is durable now."""
        self.shards += 1
        self.metrics.shards.inc()
        _log.info("shard %d committed: %s", manifest.shard, counts_text(manifest.counts))

    def rates(self) -> tuple[float, float]:
        """(rows, output tokens) a second over the last minute; zero before the first row."""
        now = self._ended_at or monotonic()
        with self._lock:
            while self._recent and now - self._recent[0][0] > _WINDOW_SECONDS:
                self._recent.popleft()
            recent = list(self._recent)
        if not recent or self._serving_since is None:
            return 0.0, 0.0
        seconds = max(min(now - self._serving_since, _WINDOW_SECONDS), 1e-3)
        return sum(rows for _, rows, _ in recent) / seconds, sum(tokens for _, _, tokens in recent) / seconds

    def eta_seconds(self) -> float | None:
        """Seconds to the last row at the present rate; None before there is a rate."""
        rows_per_second, _ = self.rates()
        return (self.total - self.finished) / rows_per_second if rows_per_second else None

    def goodput(self) -> float:
        """Output tokens of accepted rows a second, since the first replica of this start was up."""
        return self._accepted_tokens_here / self.serving_seconds if self.serving_seconds else 0.0

    @property
    def serving_seconds(self) -> float:
        """Seconds since the first replica was up; engine start-up is told apart."""
        if self._serving_since is None:
            return 0.0
        return (self._ended_at or monotonic()) - self._serving_since

    def due(self) -> bool:
        """Whether it is time to show and publish again; asked thousands of times a second."""
        now = monotonic()
        if now - self._told_at < _PUBLISH_SECONDS:
            return False
        self._told_at = now
        return True

    def publish(self, in_flight: int, replicas: Counter[str]) -> None:
        """Sets the gauges."""
        metrics, run = self.metrics, self.run.name
        metrics.in_flight.set(in_flight)
        metrics.progress.set(self.finished / self.total)
        metrics.goodput.set(self.goodput())
        if (eta := self.eta_seconds()) is not None:
            metrics.eta.set(eta)
        for state in ("starting", "serving"):
            metrics.replicas.labels(run, state).set(replicas[state])

    def line(self) -> str:
        """`312/400 rows (2 errors), 148 tokens/s, about 00:35 left`."""
        _, tokens_per_second = self.rates()
        eta = self.eta_seconds()
        failed = f" ({self.rows[ERROR]} errors)" if self.rows[ERROR] else ""
        left = f", about {clock(eta)} left" if eta is not None else ""
        return f"{self.finished}/{self.total} rows{failed}, {tokens_per_second:.0f} output tokens/s{left}"

    def _remember(self, rows: int, tokens: int) -> None:
        now = monotonic()
        with self._lock:
            if self._recent and now - self._recent[-1][0] < _PUBLISH_SECONDS:
                now, earlier_rows, earlier_tokens = self._recent.pop()
                rows, tokens = rows + earlier_rows, tokens + earlier_tokens
            self._recent.append((now, rows, tokens))

    def _count(self, counts: Any, prompt: int, cached: int, output: int) -> None:
        run = self.run.name
        for state in STATES:
            self.rows[state] += counts.get(state, 0)
            self.metrics.rows.labels(run, state).inc(counts.get(state, 0))
        self.output_tokens += output
        self.metrics.tokens.labels(run, "prompt").inc(prompt)
        self.metrics.tokens.labels(run, "output").inc(output)
        self.metrics.cached.inc(cached)

    def _count_rejects(self, reasons: dict[str, int]) -> None:
        for reason, rows in reasons.items():
            self.metrics.rejects.labels(self.run.name, reason).inc(rows)


class Display:
    """Shows a Progress on stderr: a bar on a terminal, plain lines in a log."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = Bar("starting engines", progress.total)
        self._told_at = monotonic()

    def __enter__(self) -> "Display":
        self._bar.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.update(serving=True)
        self._bar.__exit__(*exc)

    def update(self, serving: bool) -> None:
        """Shows what there is to show now; cheap to call often."""
        progress = self._progress
        if self._bar.shown:
            _, tokens_per_second = progress.rates()
            eta = progress.eta_seconds()
            note = f"{tokens_per_second:.0f} tok/s" + (f", {clock(eta)} left" if eta is not None else "")
            self._bar.update(
                completed=progress.finished, note=note if serving else "",
                description="rows" if serving else "starting engines",
            )  # fmt: skip
        elif monotonic() - self._told_at > LINE_SECONDS:
            self._told_at = monotonic()
            _log.info("%s", progress.line() if serving else "engines are starting")


def counts_text(counts: Any) -> str:
    """`510 accepted, 2 error`, without the states that no row has."""
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts.get(state)) or "no rows"

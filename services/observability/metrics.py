"""The Prometheus endpoint of a job: the one file that touches prometheus_client.

Every series carries the labels `run` and `start`. Names follow Prometheus' conventions: base units, `_total` for
counters.
"""

import errno
import math
import re
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

# From a short answer on a GPU to a long one on a busy CPU.
_SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)

_START = "start"
# Of an endpoint that is there: milliseconds, or seconds where the machine is crowded. One that is not may never refuse.
_ANSWER_SECONDS = 5.0
_MOST_BYTES = 16 << 20
_ADDRESS = re.compile(r"[\w.:\[\]-]+:\d+")


class _Registry(CollectorRegistry):
    """Gives each series the label `start`.

    A start that resumes may begin with less than was told before, where it lost rows that no shard had. Were it the
    same series, `rate` would take all of its rows for new ones.
    """

    def __init__(self, start_id: str) -> None:
        super().__init__()
        self._start_id = start_id

    def collect(self) -> Iterator[Metric]:
        """See `CollectorRegistry.collect`.

        Without `_created`: a counter that goes on where an earlier start was did not begin with this one.
        """
        for family in super().collect():
            family.samples = [
                sample._replace(labels={**sample.labels, _START: self._start_id})
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            yield family


class Endpoint:
    """The series of a job, in a registry of its own so that two jobs of one process do not meet.

    Args:
        run: value of the label `run`.

    Attributes:
        start_id: label `start` of each series, and written beside the endpoint's address: who reads the address of an
            endpoint that is gone may find another job's there, of the same name.
    """

    def __init__(self, run: str) -> None:
        self.run, self.start_id = run, secrets.token_hex(8)
        self.registry = _Registry(self.start_id)
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def _make(
        self, kind: type, name: str, help_text: str, *labels: str, unknown: bool = False, **options: object
    ) -> Any:
        """A series; `unknown` until it is set, and not 0, which would be a value."""
        metric = kind(name, help_text, ["run", *labels], registry=self.registry, **options)
        if labels:
            return metric
        if unknown:
            metric.labels(self.run).set(math.nan)
        return metric.labels(self.run)

    def values(self) -> dict[str, float]:
        """What is told now, named as one would ask Prometheus: `{'kindling_rows_total{state="accepted"}': 40.0}`.

        Without the labels of all, the buckets of histograms, and what is not known or without a bound: JSON has no such
        numbers.
        """
        told = {}
        for sample in (sample for family in self.registry.collect() for sample in family.samples):
            if not sample.name.endswith("_bucket") and math.isfinite(sample.value):
                own = {name: value for name, value in sample.labels.items() if name not in ("run", _START)}
                labels = ",".join(f'{name}="{value}"' for name, value in own.items())
                told[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return told

    def last(self, record: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """What the record of a job keeps when it ends: `ended_at`, and the values of all series in `last_metrics`.

        Args:
            record: as it was: what this start does not tell stays as an earlier one told it.
        """
        values = {**record.get("last_metrics", {}), **self.values()}
        return {"ended_at": datetime.now(UTC).isoformat(timespec="seconds"), "last_metrics": values}

    def serve(self, host: str, port: int) -> tuple[str, bool]:
        """Opens the endpoint.

        Returns:
            (its `host:port`, whether that is the port asked for). A port that is taken is replaced by a free one.

        Raises:
            OSError: the host is not an address of this machine, or the port none that this user may open.
        """
        try:
            self._server, self._thread = start_http_server(port, host, self.registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._server, self._thread = start_http_server(0, host, self.registry)
        given = self._server.server_port
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{given}", port in (0, given)

    def close(self) -> None:
        """Closes the endpoint."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


class JobMetrics(Endpoint):
    """The series of `augment`. Counters begin with what earlier starts left, so that they equal the shards."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.rows = self._make(
            Counter, "kindling_rows_total", "Rows that are accepted, rejected by quality control or in error by now",
            "state",
        )  # fmt: skip
        self.tokens = self._make(
            Counter, "kindling_tokens_total", "Tokens of finished rows, whatever their state: prompt or output", "kind"
        )
        self.accepted_tokens = self._make(
            Counter, "kindling_accepted_output_tokens_total",
            "Output tokens of accepted rows; their rate is the goodput of any span",
        )  # fmt: skip
        self.cached = self._make(
            Counter, "kindling_cached_prompt_tokens_total",
            "Prompt tokens that the engines' prefix caches held and no engine computed again",
        )  # fmt: skip
        self.shards = self._make(Counter, "kindling_shards_committed_total", "Shards that are durable by now")
        self.in_flight = self._make(Gauge, "kindling_requests_in_flight", "Rows that are with replicas now")
        self.seconds = self._make(
            Histogram, "kindling_request_seconds",
            "Seconds from handing a row to its engine to its last token, in this start", buckets=_SECONDS_BUCKETS,
        )  # fmt: skip
        self.replicas = self._make(Gauge, "kindling_replicas", "Replicas that are starting or serving now", "state")
        self.restarts = self._make(
            Counter, "kindling_replica_restarts_total", "Replicas that took the place of dead ones, in this start"
        )
        self.replica_seconds = self._make(
            Counter, "kindling_replica_seconds_total",
            "Seconds that replicas were there, summed, engine start-up included, in all starts but killed ones",
        )  # fmt: skip
        self.price = self._make(
            Gauge, "kindling_price_per_replica_hour",
            "What an hour of one replica costs by the job file; NaN where that says none", unknown=True,
        )  # fmt: skip
        self.kv_cache = self._make(
            Gauge, "kindling_kv_cache_usage_ratio",
            "Share of the KV cache that running requests take, 0 to 1, mean over serving replicas", unknown=True,
        )  # fmt: skip
        self.rejects = self._make(
            Counter, "kindling_rejects_total", "Rows that quality control rejected, by the rule that did", "reason"
        )
        self.progress = self._make(
            Gauge, "kindling_progress_ratio", "Share of the run's rows that are finished, 0 to 1"
        )
        self.eta = self._make(
            Gauge, "kindling_eta_seconds",
            "Seconds to the last row at the rate of the last ten minutes; NaN while there is none", unknown=True,
        )  # fmt: skip
        self.goodput = self._make(
            Gauge, "kindling_goodput_tokens_per_second",
            "Output tokens of accepted rows a second, mean since the first engine of this start was up",
        )  # fmt: skip
        self.goodput_now = self._make(
            Gauge, "kindling_goodput_last_minute_tokens_per_second",
            "Output tokens of accepted rows a second, over the last minute",
        )  # fmt: skip
        self.eta_bound = self._make(
            Gauge, "kindling_eta_bound_seconds",
            "The 90% interval of kindling_eta_seconds, from how the rates of the last ten minutes differ", "bound",
        )  # fmt: skip
        self.free_bytes = self._make(
            Gauge, "kindling_output_free_bytes",
            "Room that is left on the disk of the run folder; NaN where that is no local one", unknown=True,
        )  # fmt: skip

    def tell_replicas(self, read: Callable[[], list["ReplicaNow"]]) -> None:
        """From now on tells how each replica is; see `ReplicaSeries`."""
        self.registry.register(ReplicaSeries(self.run, read))


class TrainMetrics(Endpoint):
    """The series of `train`, each of one stage: `0-clm`."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.loss = self._make(
            Gauge, "kindling_train_loss",
            "Loss over the last logged steps, in nats: a token, or of a classifier a label", "stage",
        )  # fmt: skip
        self.held_out_loss = self._make(
            Gauge, "kindling_train_held_out_loss", "The same on held-out rows, at the last evaluation", "stage"
        )
        self.learning_rate = self._make(
            Gauge, "kindling_train_learning_rate", "Learning rate of the last logged step", "stage"
        )
        self.steps = self._make(
            Counter, "kindling_train_steps_total", "Optimizer steps taken, in all starts of the job", "stage"
        )
        self.planned_steps = self._make(
            Gauge, "kindling_train_planned_steps", "Optimizer steps of the whole stage, which may end sooner", "stage"
        )
        self.tokens = self._make(
            Counter, "kindling_train_tokens_total", "Tokens trained on in all starts, padding not counted", "stage"
        )
        self.tokens_per_second = self._make(
            Gauge, "kindling_train_tokens_per_second",
            "Tokens trained on a second, over the last logged steps, evaluations left out", "stage",
        )  # fmt: skip
        self.eta = self._make(
            Gauge, "kindling_train_eta_seconds",
            "Seconds until the stage's last step, at the rate of this start, evaluations included", "stage",
        )  # fmt: skip


class EvaluateMetrics(Endpoint):
    """The series of `evaluate`, each of one evaluation of one model; the runs of their answers have their own."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.examples = self._make(
            Counter, "kindling_evaluate_examples_total",
            "What a model was measured on in all starts: responses of sentiment, pairs of blimp, tasks of lm_eval, "
            "texts of logit_lens", "evaluation", "model",
        )  # fmt: skip
        self.planned = self._make(
            Gauge, "kindling_evaluate_planned_examples", "How many of those there are in all", "evaluation", "model"
        )
        self.failed = self._make(
            Gauge, "kindling_evaluate_failed_models", "Models that could not be evaluated", "evaluation"
        )


@dataclass(frozen=True)
class ReplicaNow:
    """How a replica is.

    Attributes:
        number: from 0; stays with its successor where it dies.
        state: starting, serving, or lost.
        in_flight: rows that it has now.
        rows: that it returned, in this start.
        deaths: how often it died, in this start.
        last_rows_at: when it returned the last of them, in seconds of the Unix clock; None where it returned none.
    """

    number: int
    state: str
    in_flight: int
    rows: int
    deaths: int
    last_rows_at: float | None


class ReplicaSeries:
    """The series of each replica, told as they are when somebody asks: there may be hundreds.

    Args:
        run: value of the label `run`.
        read: tells how they are; called from the endpoint's threads.
    """

    def __init__(self, run: str, read: Callable[[], list[ReplicaNow]]) -> None:
        self._run, self._read = run, read

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        labels = ["run", "replica"]
        state = GaugeMetricFamily(
            "kindling_replica_state", "1 for the state that the replica is in", labels=[*labels, "state"]
        )
        in_flight = GaugeMetricFamily(
            "kindling_replica_requests_in_flight", "Rows that the replica has now", labels=labels
        )
        rows = CounterMetricFamily("kindling_replica_rows", "Rows that the replica returned, this start", labels=labels)
        deaths = CounterMetricFamily("kindling_replica_deaths", "How often it died, this start", labels=labels)
        last = GaugeMetricFamily(
            "kindling_replica_last_rows_timestamp_seconds", "When the replica last returned rows", labels=labels
        )
        for replica in self._read():
            mine = [self._run, str(replica.number)]
            state.add_metric([*mine, replica.state], 1)
            in_flight.add_metric(mine, replica.in_flight)
            rows.add_metric(mine, replica.rows)
            deaths.add_metric(mine, replica.deaths)
            if replica.last_rows_at is not None:
                last.add_metric(mine, replica.last_rows_at)
        yield from (state, in_flight, rows, deaths, last)


class SilentError(Exception):
    """No endpoint of this start is there; its text says what is in its place."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The address is from a file, which may be somebody else's: it is asked, and nobody that it names."""

    def redirect_request(self, *_: object) -> None:
        return None


class Told:
    """What an endpoint told when it was asked."""

    def __init__(self, samples: list[tuple[str, dict[str, str], float]]) -> None:
        self._samples = samples

    def value(self, name: str, **labels: str) -> float | None:
        """Of the one series with that name and these labels; None where there is none."""
        wanted = labels.items()
        return next((value for told, has, value in self._samples if told == name and wanted <= has.items()), None)

    def by(self, label: str, name: str) -> dict[str, float]:
        """The values of all series with that name, by one of their labels."""
        return {has[label]: value for told, has, value in self._samples if told == name and label in has}

    def is_of(self, start_id: str) -> bool:
        """Whether it is that start of a job."""
        return any(has.get(_START) == start_id for _, has, _ in self._samples)

    def labels(self, name: str) -> list[dict[str, str]]:
        """Those of all series with that name."""
        return [has for told, has, _ in self._samples if told == name]


def ask(address: str, start_id: str) -> Told:
    """Reads the endpoint of a job.

    Args:
        address: its `host:port`; empty where the job has none.
        start_id: what it must tell of itself.

    Raises:
        SilentError: nobody answers, or somebody else.
    """
    if not _ADDRESS.fullmatch(address):
        raise SilentError("the job has no endpoint (`metrics.port` is null), or has not begun")
    # On no account by a proxy: the address is one of this machine or of a neighbour.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    elsewhere = "the job ended or is elsewhere"
    try:
        with direct.open(f"http://{address}/metrics", timeout=_ANSWER_SECONDS) as answer:
            text = answer.read(_MOST_BYTES).decode()
        samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except OSError as error:
        there = "another program's" if isinstance(error, urllib.error.HTTPError) else "silent"
        raise SilentError(f"{address} is {there}: {elsewhere}") from None
    except Exception:  # the parser has no error of its own, and whoever has the port now may answer anything
        raise SilentError(f"{address} is another program's: {elsewhere}") from None
    told = Told(samples)
    if not told.is_of(start_id):
        raise SilentError(f"{address} is another job's: {elsewhere}")
    return told

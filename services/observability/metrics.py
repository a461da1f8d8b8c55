"""The Prometheus endpoint of a job: serves its metrics, and reads those of another job.

Invariant: within one series a counter never falls. A counter begins with the count that earlier starts left on disk,
and each start of a job has series of its own (label `start`).

This is the only file that imports prometheus_client; `series.py` lists the metrics of each verb.
"""

import errno
import math
import re
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_START_LABEL = "start"
# A live endpoint answers in milliseconds, on a crowded machine in seconds. A dead address may never refuse.
_READ_TIMEOUT_SECONDS = 5.0
_MAX_ANSWER_BYTES = 16 << 20
_ADDRESS = re.compile(r"[\w.:\[\]-]+:\d+")


class _Registry(CollectorRegistry):
    """Adds the label `start` to each series.

    A start that resumes may begin with a lower count than the start before it reported: rows of open shards are lost
    where no log keeps them. In one series `rate` would take the fall for a restart from 0, and count all rows again.
    """

    def __init__(self, start_id: str) -> None:
        super().__init__()
        self._start_id = start_id

    def collect(self) -> Iterator[Metric]:
        """Collects all metrics, with the label `start`; see `CollectorRegistry.collect`."""
        for family in super().collect():
            family.samples = [
                sample._replace(labels={**sample.labels, _START_LABEL: self._start_id})
                for sample in family.samples
                # `_created` would say that the count began with this start, but it continues that of earlier ones.
                if not sample.name.endswith("_created")
            ]
            yield family


class Endpoint:
    """The metrics of one job, in a registry of its own: several jobs may run in one process.

    Args:
        run: value of the label `run`.

    Attributes:
        start_id: value of the label `start`; the job's record keeps it beside the endpoint's address. A reader compares
            it, because another job of the same name may serve at that address by now.
    """

    def __init__(self, run: str) -> None:
        self.run, self.start_id = run, secrets.token_hex(8)
        self.registry = _Registry(self.start_id)
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        """Adds a counter. One with labels besides `run` has no series until `labels(run, ...)` is called."""
        metric = Counter(name, help_text, ["run", *labels], registry=self.registry)
        return metric if labels else metric.labels(self.run)

    def _gauge(self, name: str, help_text: str, *labels: str, starts_unknown: bool = False) -> Gauge:
        """Adds a gauge.

        Args:
            starts_unknown: the value is NaN until it is set; 0 would be read as a measured value.
        """
        metric = Gauge(name, help_text, ["run", *labels], registry=self.registry)
        if labels:
            return metric
        if starts_unknown:
            metric.labels(self.run).set(math.nan)
        return metric.labels(self.run)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
        """Adds a histogram with the upper bounds of its buckets."""
        return Histogram(name, help_text, ["run"], registry=self.registry, buckets=buckets).labels(self.run)

    def values(self) -> dict[str, float]:
        """Current values by series, named as in a Prometheus query: `{'kindling_rows_total{state="accepted"}': 40.0}`.

        The labels `run` and `start` and the buckets of histograms are left out, and so are NaN and infinity, which JSON
        does not have.
        """
        values = {}
        for sample in (sample for family in self.registry.collect() for sample in family.samples):
            # A histogram's count and sum stay; its buckets would be most of the record.
            if not sample.name.endswith("_bucket") and math.isfinite(sample.value):
                own_labels = {name: value for name, value in sample.labels.items() if name not in ("run", _START_LABEL)}
                labels = ",".join(f'{name}="{value}"' for name, value in own_labels.items())
                values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return values

    def final_entries(self, record: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Entries that a job adds to its record when it ends: `ended_at`, and the values of all series.

        Args:
            record: the record so far. Values in its `last_metrics` stay where this start has none.
        """
        values = {**record.get("last_metrics", {}), **self.values()}
        return {"ended_at": datetime.now(UTC).isoformat(timespec="seconds"), "last_metrics": values}

    def serve(self, host: str, port: int) -> tuple[str, bool]:
        """Opens the endpoint; another free port replaces one that is in use.

        Returns:
            (the endpoint's `host:port`, whether that is the port asked for).

        Raises:
            OSError: the host is not an address of this machine, or this user may not open the port.
        """
        try:
            self._server, self._thread = start_http_server(port, host, self.registry)
        except OSError as error:
            # A second job on this machine must not fail because the first one has the default port.
            if error.errno != errno.EADDRINUSE:
                raise
            self._server, self._thread = start_http_server(0, host, self.registry)
        opened_port = self._server.server_port
        shown_host = f"[{host}]" if ":" in host else host
        return f"{shown_host}:{opened_port}", port in (0, opened_port)

    def close(self) -> None:
        """Closes the endpoint."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


@dataclass(frozen=True)
class ReplicaStatus:
    """Current status of one replica.

    Attributes:
        number: from 0; the successor of a dead replica keeps its number.
        state: starting, serving, or lost.
        in_flight: rows that the replica has now.
        rows: rows that it returned in this start.
        deaths: number of its deaths in this start.
        last_rows_at: time at which it last returned rows, in seconds since 1970; None before the first ones.
    """

    number: int
    state: str
    in_flight: int
    rows: int
    deaths: int
    last_rows_at: float | None


class ReplicaCollector(Collector):
    """Series of each replica, computed only when the endpoint is read: there may be hundreds of replicas.

    Args:
        run: value of the label `run`.
        read_status: returns the status of all replicas; called from the endpoint's threads.
    """

    def __init__(self, run: str, read_status: Callable[[], list[ReplicaStatus]]) -> None:
        self._run, self._read_status = run, read_status

    def collect(self) -> Iterator[Metric]:
        """Makes the series from the current status; see `prometheus_client.registry.Collector`."""
        labels = ["run", "replica"]
        state = GaugeMetricFamily(
            "kindling_replica_state", "1 for the state that the replica is in", labels=[*labels, "state"]
        )
        in_flight = GaugeMetricFamily(
            "kindling_replica_requests_in_flight", "Rows that the replica has now", labels=labels
        )
        rows = CounterMetricFamily(
            "kindling_replica_rows", "Rows that the replica returned in this start", labels=labels
        )
        deaths = CounterMetricFamily("kindling_replica_deaths", "Deaths of the replica in this start", labels=labels)
        last = GaugeMetricFamily(
            "kindling_replica_last_rows_timestamp_seconds", "Time at which the replica last returned rows",
            labels=labels,
        )  # fmt: skip
        for replica in self._read_status():
            values = [self._run, str(replica.number)]
            state.add_metric([*values, replica.state], 1)
            in_flight.add_metric(values, replica.in_flight)
            rows.add_metric(values, replica.rows)
            deaths.add_metric(values, replica.deaths)
            if replica.last_rows_at is not None:
                last.add_metric(values, replica.last_rows_at)
        yield from (state, in_flight, rows, deaths, last)


class EndpointError(Exception):
    """No endpoint of the start asked for answers; the message says what is at its address instead."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the address comes from a file in the run folder, which another person may have written."""

    def redirect_request(self, *_: object) -> None:
        return None


class EndpointMetrics:
    """Samples read from an endpoint."""

    def __init__(self, samples: list[tuple[str, dict[str, str], float]]) -> None:
        self._samples = samples

    def value(self, name: str, **labels: str) -> float | None:
        """Value of the first series with this name and these labels; None if there is none."""
        wanted = labels.items()
        matches = (value for series, present, value in self._samples if series == name and wanted <= present.items())
        return next(matches, None)

    def values_by(self, label: str, name: str) -> dict[str, float]:
        """Values of all series with this name, keyed by one of their labels."""
        return {labels[label]: value for series, labels, value in self._samples if series == name and label in labels}

    def belongs_to(self, start_id: str) -> bool:
        """Returns whether the endpoint is that of this start of a job."""
        return any(labels.get(_START_LABEL) == start_id for _, labels, _ in self._samples)

    def labels(self, name: str) -> list[dict[str, str]]:
        """Labels of all series with this name."""
        return [labels for series, labels, _ in self._samples if series == name]


def read_endpoint(address: str, start_id: str) -> EndpointMetrics:
    """Reads the endpoint of a job.

    Args:
        address: `host:port` of the endpoint; empty if the job has none.
        start_id: label `start` that its series must have.

    Raises:
        EndpointError: nothing answers at the address, or another program or job does.
    """
    if not _ADDRESS.fullmatch(address):
        raise EndpointError("the job has no endpoint (`metrics.port` is null), or has not begun")
    # Never through a proxy: the address is on this machine or on one beside it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    consequence = "the job ended or is elsewhere"
    try:
        with direct.open(f"http://{address}/metrics", timeout=_READ_TIMEOUT_SECONDS) as answer:
            text = answer.read(_MAX_ANSWER_BYTES).decode()
        samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except OSError as error:
        # An HTTP error is the answer of some program; a refused connection or a timeout is none.
        occupant = "another program's" if isinstance(error, urllib.error.HTTPError) else "silent"
        raise EndpointError(f"{address} is {occupant}: {consequence}") from None
    except Exception:  # the parser has no error class of its own, and another program may answer anything
        raise EndpointError(f"{address} is another program's: {consequence}") from None
    metrics = EndpointMetrics(samples)
    if not metrics.belongs_to(start_id):
        raise EndpointError(f"{address} is another job's: {consequence}")
    return metrics

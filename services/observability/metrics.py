"""The Prometheus endpoint of a job.

Invariant: within one series a counter never falls. A counter begins with the count that earlier starts left on disk,
and each start of a job has series of its own (label `start`).

`series.py` lists the metrics of each verb, and `endpoint_reader.py` reads the endpoint of another process.
"""

import errno
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.observability.endpoint_reader import START_LABEL


class _Registry(CollectorRegistry):
    """Adds the label `start` to each series.

    A start that resumes may begin with a lower count than the start before it reported: rows of open shards are lost
    where no log keeps them. In one series `rate` would take the fall for a restart from 0, and count all rows again.
    """

    def __init__(self, start_id: str) -> None:
        super().__init__()
        self._start_id = start_id

    def collect(self) -> Iterator[Metric]:
        """Collects all metrics, with the label `start`; those of an included endpoint keep their own."""
        for family in super().collect():
            family.samples = [
                sample._replace(labels={START_LABEL: self._start_id, **sample.labels})
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
                own_labels = {name: value for name, value in sample.labels.items() if name not in ("run", START_LABEL)}
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

    @contextmanager
    def including(self, other: "Endpoint") -> Iterator[None]:
        """Inside the block this endpoint shows another one's series too, which has other metrics."""
        self.registry.register(other.registry)
        try:
            yield
        finally:
            self.registry.unregister(other.registry)

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

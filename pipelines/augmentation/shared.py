"""Engines and a metrics endpoint that several runs share, one run after the other, as those of one evaluation do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.job import Metrics
from services.observability.endpoint import serve_metrics
from services.observability.metrics import Endpoint
from services.replicas.kept_replicas import KeptReplicas


@dataclass(frozen=True)
class Shared:
    """Parts of the job that the runs belong to.

    Attributes:
        replicas: engines that one run leaves to the next; all runs have the same model and engine arguments.
        endpoint: endpoint of the job, which shows the metrics of the current run too.
        address: address of the endpoint; empty where the job turns it off.
    """

    replicas: KeptReplicas
    endpoint: Endpoint
    address: str


@contextmanager
def serve_run(metrics: Endpoint, section: Metrics, shared: Shared | None) -> Iterator[str]:
    """Serves the metrics of a run inside the block: on the endpoint that it shares, or on one of its own.

    Yields:
        address of the endpoint, as `serve_metrics` does.

    Raises:
        JobError: an own endpoint cannot be opened.
    """
    if shared is None:
        with serve_metrics(metrics, section) as address:
            yield address
    else:
        with shared.endpoint.including(metrics):
            yield shared.address

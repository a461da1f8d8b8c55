"""The Prometheus endpoint of a job, as its section `metrics` asks for it."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from schemas.errors import JobError
from schemas.job import Metrics
from services.metrics import Endpoint
from services.scrape_targets import announced

_log = logging.getLogger("kindling")


@contextmanager
def served(series: Endpoint, section: Metrics) -> Iterator[str]:
    """Inside the block the series can be read, and Prometheus finds them.

    Yields:
        the `host:port`; empty where the job turns it off.

    Raises:
        JobError: the host is no address of this machine.
    """
    if section.port is None:
        yield ""
        return
    try:
        address, as_asked = series.serve(section.host, section.port)
    except OSError as error:
        cause = f"no port can be opened there: {error.strerror or error}"
        raise JobError("metrics.host", section.host, cause, "name an address of this machine") from None
    taken = "" if as_asked else f"port {section.port} is in use; "
    _log.log(logging.INFO if as_asked else logging.WARNING, "%smetrics are on http://%s/metrics", taken, address)
    try:
        with found(address, section):
            yield address
    finally:
        series.close()


def found(address: str, section: Metrics, **labels: str) -> AbstractContextManager[None]:
    """Inside the block Prometheus finds an address where the job tells it of its own; none where it is empty."""
    wanted = address and section.port is not None and section.targets is not None
    return announced(address, section.targets, **labels) if wanted else nullcontext()

"""The Prometheus endpoint of a job, as its section `metrics` asks for it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import JobError
from schemas.job import Metrics
from services.metrics import Endpoint

_log = logging.getLogger("kindling")


@contextmanager
def served(series: Endpoint, section: Metrics) -> Iterator[str]:
    """Inside the block the series can be read.

    Yields:
        the `host:port`; empty where the job turns it off.

    Raises:
        JobError: the host is no address of this machine.
    """
    address = ""
    if section.port is not None:
        try:
            address, as_asked = series.serve(section.host, section.port)
        except OSError as error:
            cause = f"no port can be opened there: {error.strerror or error}"
            raise JobError("metrics.host", section.host, cause, "name an address of this machine") from None
        taken = "" if as_asked else f"port {section.port} is in use; "
        _log.log(logging.INFO if as_asked else logging.WARNING, "%smetrics are on http://%s/metrics", taken, address)
    try:
        yield address
    finally:
        series.close()

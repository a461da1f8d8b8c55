"""The Prometheus endpoint of a job, as its section `metrics` asks for it."""

import errno
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from schemas.errors import JobError
from schemas.job import Metrics
from services.observability.metrics import Endpoint
from services.observability.scrape_targets import reachable_address, target_file

_log = logging.getLogger("kindling")


@contextmanager
def serve_metrics(series: Endpoint, section: Metrics) -> Iterator[str]:
    """Inside the block the series can be read, and Prometheus finds them.

    Yields:
        the `host:port` at which others find it; empty where the job turns it off.

    Raises:
        JobError: the host is no address of this machine, or the port is not for this user.
    """
    if section.port is None:
        yield ""
        return
    try:
        address, as_asked = series.serve(section.host, section.port)
    except OSError as error:
        told = error.strerror or error
        if error.errno == errno.EACCES:
            remedy = "name one from 1024 on, or 0 for any that is free"
            raise JobError("metrics.port", section.port, f"it cannot be opened: {told}", remedy) from None
        cause, remedy = f"no port can be opened there: {told}", "name an address of this machine"
        raise JobError("metrics.host", section.host, cause, remedy) from None
    address = reachable_address(address)
    if as_asked:
        _log.info("metrics are on http://%s/metrics", address)
    else:
        _log.warning(
            "port %d is in use: metrics are on http://%s/metrics, where Prometheus finds them by metrics.targets; tell "
            "whoever asks for the port itself, or name another in metrics.port", section.port, address,
        )  # fmt: skip
    try:
        with register_target(address, section):
            yield address
    finally:
        series.close()


def register_target(address: str, section: Metrics, **labels: str) -> AbstractContextManager[None]:
    """Inside the block Prometheus finds an address where the job tells it of its own; none where it is empty."""
    wanted = address and section.port is not None and section.targets is not None
    return target_file(address, section.targets, **labels) if wanted else nullcontext()

"""Serves the metrics of a job while it runs, as the section `metrics` of its job file says."""

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
def serve_metrics(metrics: Endpoint, section: Metrics) -> Iterator[str]:
    """Serves the metrics inside the block, where Prometheus finds them.

    Yields:
        the `host:port` at which other machines reach the endpoint; empty if the job turns it off.

    Raises:
        JobError: the host is not an address of this machine, or this user may not open the port.
    """
    if section.port is None:
        yield ""
        return
    try:
        address, is_asked_port = metrics.serve(section.host, section.port)
    except OSError as error:
        reason = error.strerror or error
        if error.errno == errno.EACCES:
            remedy = "name a port from 1024 on, or 0 for any free one"
            raise JobError("metrics.port", section.port, f"it cannot be opened: {reason}", remedy) from None
        cause, remedy = f"no port can be opened there: {reason}", "name an address of this machine"
        raise JobError("metrics.host", section.host, cause, remedy) from None
    address = reachable_address(address)
    if is_asked_port:
        _log.info("metrics are on http://%s/metrics", address)
    else:
        _log.warning(
            "port %d is in use: metrics are on http://%s/metrics, which Prometheus finds through metrics.targets. To "
            "read a fixed port, name a free one in metrics.port", section.port, address,
        )  # fmt: skip
    try:
        with register_target(address, section):
            yield address
    finally:
        metrics.close()


def register_target(address: str, section: Metrics, **labels: str) -> AbstractContextManager[None]:
    """Lets Prometheus find an address inside the block, if the job registers its own endpoint.

    Args:
        address: `host:port`; nothing is registered if it is empty.
        labels: labels of all series at the address.
    """
    if not address or section.port is None or section.targets is None:
        return nullcontext()
    return target_file(address, section.targets, **labels)

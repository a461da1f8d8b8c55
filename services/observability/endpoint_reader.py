"""Reads the Prometheus endpoint of a job that runs in another process."""

import re
import urllib.error
import urllib.request

START_LABEL = "start"
"""label whose value identifies one start of a job; see `Endpoint.start_id`"""

# A live endpoint answers in milliseconds, on a crowded machine in seconds. A dead address may never refuse.
_READ_TIMEOUT_SECONDS = 5.0
_MAX_ANSWER_BYTES = 16 << 20
_ADDRESS = re.compile(r"[\w.:\[\]-]+:\d+")


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
        return any(labels.get(START_LABEL) == start_id for _, labels, _ in self._samples)

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
        # Only now: the package takes a tenth of a second, and most runs have no endpoint any more.
        from prometheus_client.parser import text_string_to_metric_families

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

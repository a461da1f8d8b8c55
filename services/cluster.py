"""Ray: joining a cluster, or starting one on this machine for as long as the job runs."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

import ray

from schemas.errors import EngineError
from schemas.text import shorten
from services.observability import logs

# The object store only carries messages of a few KB; Ray would reserve 30% of the memory.
_OBJECT_STORE_BYTES = 256 << 20
_ANSWER_SECONDS = 5.0


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Inside the block this process is a Ray driver.

    A connection that is already there (a notebook's, a test's) is used and left. Else the cluster at `address` or
    RAY_ADDRESS is joined, or one is started on this machine that ends with the block.

    Yields:
        `host:port` at which a Ray that was started here tells its own metrics and vLLM's. Empty for another's, which
        Prometheus finds by Ray's own means.

    Raises:
        EngineError: there is no cluster at that address, or Ray does not start here.
    """
    if ray.is_initialized():
        yield ""
        return
    # A service sends nothing home unless its owner asks for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers would give way to every other process of the machine, but engines are what it is there for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    heard = logs.dependencies_are_logged()
    options = {
        "log_to_driver": heard,
        "logging_level": logging.ERROR,
        "configure_logging": not logs.capture_library_log("ray"),
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **options)
        else:
            # "local": ray.init would else join a cluster that somebody else runs on this machine.
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **options)
    except Exception as error:  # Ray raises that very class where a node does not start in time
        told = shorten(str(error).splitlines()[0])
        cause = f"no Ray cluster answers there: {told}" if address else f"Ray does not start on this machine: {told}"
        remedy = "start one with `ray start --head`, or leave the key out to run on this machine"
        if not address:
            remedy = "start the job again when the machine is less busy; Ray's logs are in /tmp/ray"
        raise EngineError("cluster.address", address, cause, remedy) from None
    if heard:
        _log_workers()
    # Ray's own handler would end the process with a code that tells nobody to come again.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield "" if address else _metrics_address()
    finally:
        ray.shutdown()


def _log_workers() -> None:
    """What workers say becomes records of the log. Ray would print it, also to the standard output of `--json`."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher  # no public way (2.60)

    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("kindling", logs.log_worker_lines)


def _metrics_address() -> str:
    (node,) = ray.nodes()
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def head_answers() -> bool:
    """Whether the cluster's head is there. Ray itself would wait for it a minute, and then abort this process."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def cause_of(error: Exception) -> str:
    """The line on which Ray tells the cause of an error, below a table of ids."""
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[-1].split())

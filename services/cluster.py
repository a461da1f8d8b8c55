"""The connection to Ray: joins a running cluster, or starts one on this machine for as long as the job runs."""

import contextlib
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from schemas.errors import EngineError, KindlingError, StoppedError
from schemas.text import shorten
from services.observability import logs, start_phases
from services.observability.terminal import shown_phase
from services.ray_files import make_token_private, private_folder

# Kindling's messages are a few KB each. Ray would reserve 30% of the machine's memory for its object store.
_OBJECT_STORE_BYTES = 256 << 20
_HEAD_TIMEOUT_SECONDS = 5.0
_HEAD_CHECK_SECONDS = 10.0
# The first request of every client to a head (2.60).
_FIRST_REQUEST = "/ray.rpc.NodeInfoGcsService/GetClusterId"
# A head may be restarted (where its state is in Redis). Ray's client aborts this process after an outage of a minute,
# so what the job still has to write must be written before that.
_MAX_HEAD_OUTAGE_SECONDS = 20.0

# Whether this process started the cluster for itself. No node ever joins it.
_is_own = False


def starts_cluster(address: str | None) -> bool:
    """Returns whether `connect_to_ray` would start a cluster on this machine."""
    return not (ray.is_initialized() or address or os.environ.get("RAY_ADDRESS"))


def is_own_cluster() -> bool:
    """Returns whether this process started the cluster for itself, so that it stays as it is."""
    return _is_own


@contextlib.contextmanager
def connect_to_ray(address: str | None) -> Iterator[str]:
    """Makes this process a Ray driver inside the block.

    A connection that exists already (in a notebook or a test) is used, and stays open after the block. Otherwise the
    cluster at `address` or RAY_ADDRESS is joined. Where neither is set, a cluster is started on this machine and ends
    with the block.

    Args:
        address: address of a running cluster (`cluster.address` of a job), or None.

    Yields:
        Address `host:port` at which a cluster that was started here exposes Ray's and vLLM's metrics. Empty for any
        other cluster: Prometheus discovers those by Ray's own means.

    Raises:
        EngineError: no cluster answers at that address, or it wants a token.
        StoppedError: Ray does not start on this machine, which may be too busy.
    """
    global _is_own
    if ray.is_initialized():
        yield ""
        return
    # No usage statistics are sent unless the owner of the machine turns them on.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default Ray's workers have a lower priority than every other process. Here engines are the main work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    log_workers = logs.dependencies_are_logged()
    options: dict[str, Any] = {
        "log_to_driver": log_workers,
        "logging_level": logging.ERROR,
        "configure_logging": not logs.capture_library_log("ray"),
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **options)
        else:
            # "local": without it ray.init would join a cluster that somebody else runs on this machine.
            make_token_private()
            options |= {"_temp_dir": private_folder(), "object_store_memory": _OBJECT_STORE_BYTES}
            with shown_phase(start_phases.RAY), _hangup_blocked():
                ray.init("local", include_dashboard=False, **options)
    except Exception as error:  # Ray raises a plain Exception where a node does not start in time
        raise _connection_error(address, error) from None
    _log_errors_of_ray()
    if log_workers:
        _log_workers()
    # Ray installs a handler that ends the process with an exit code that does not mean "stopped, run it again".
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    _is_own = not address
    try:
        yield "" if address else _metrics_address()
    finally:
        _is_own = False
        ray.shutdown()


@contextlib.contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Inside the block new processes inherit that SIGHUP is blocked; this process gets it after the block.

    A terminal that is closed signals all its processes, and the job could not stop in good order without its cluster.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _connection_error(address: str | None, error: Exception) -> KindlingError:
    first_line = shorten(str(error).splitlines()[0])
    if isinstance(error, AuthenticationError) or (address and _wants_token(str(error))):
        cause = "the cluster wants a token, and this process has none, or another one"
        remedy = (
            "export RAY_AUTH_MODE=token, and put the token of the cluster's head into ~/.ray/auth_token (readable by "
            "you alone) or RAY_AUTH_TOKEN"
        )
        return EngineError("cluster.address", address, cause, remedy)
    if address:
        cause = f"no Ray cluster answers there: {first_line}"
        remedy = "start one with `ray start --head --disable-usage-stats`, or leave the key out to run on this machine"
        return EngineError("cluster.address", address, cause, remedy)
    cause = f"Ray does not start on this machine: {first_line}"
    remedy = f"start the job again when the machine is less busy and its disk has room; Ray's logs: {private_folder()}"
    return StoppedError("cluster.address", None, cause, remedy)


def _wants_token(message: str) -> bool:
    """Returns whether the head that Ray's error names refuses requests without the right token.

    Ray itself says only that it could not connect.
    """
    if (place := re.search(r"\S+:\d+", message)) is None:
        return False
    import grpc  # comes with Ray, which imports it as late

    try:
        with grpc.insecure_channel(place[0]) as channel:
            channel.unary_unary(_FIRST_REQUEST)(b"", timeout=_HEAD_TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _log_errors_of_ray() -> None:
    """Turns errors that Ray sends to all drivers (a worker died, a raylet ended) into log records of a library.

    Ray would print them on standard output, where they would mix with the JSON of `--json`. The job says itself what a
    death means for it.
    """
    from ray._private import worker  # no public way (2.60)

    worker.print_to_stdstream = lambda batch, *_, **__: logs.log_worker_lines(batch)


def _log_workers() -> None:
    """Turns the output of Ray's workers into log records.

    Ray would print it, also to standard output, where it would mix with the JSON of `--json`.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher  # no public way (2.60)

    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("kindling", logs.log_worker_lines)


def _metrics_address() -> str:
    (node,) = ray.nodes()
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def is_head_reachable() -> bool:
    """Returns whether the cluster's head node accepts connections.

    Ray's own calls would wait for a lost head for a minute, and then abort this process.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_HEAD_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


class HeadWatch:
    """Notices the loss of the cluster's head before Ray aborts this process."""

    def __init__(self) -> None:
        self._answered_at = self._checked_at = self._reached_at = time.monotonic()

    def check(self, has_answers: bool) -> None:
        """Checks the head now and then; must be called at least every few seconds.

        Args:
            has_answers: whether any actor has answered since the last call. If none does, a head that cannot be
                reached is lost; otherwise it may be restarting.

        Raises:
            StoppedError: the head is lost.
        """
        now = time.monotonic()
        if has_answers:
            self._answered_at = now
        if now - self._checked_at < _HEAD_CHECK_SECONDS:
            return
        self._checked_at = now
        if is_head_reachable():
            self._reached_at = now
        elif max(now - self._reached_at - _MAX_HEAD_OUTAGE_SECONDS, now - self._answered_at - _HEAD_CHECK_SECONDS) > 0:
            raise head_lost()


@contextlib.contextmanager
def watched_head() -> Iterator[None]:
    """Inside the block SIGTERM ends a call of Ray that would wait for a lost head; only for the main thread.

    Raises:
        StoppedError: the head was lost.
    """
    ended, lost = threading.Event(), list[StoppedError]()

    def watch() -> None:
        head_watch = HeadWatch()
        while not ended.wait(_HEAD_CHECK_SECONDS / 2):
            try:
                head_watch.check(has_answers=True)
            except StoppedError as error:
                lost.append(error)
                return signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    threading.Thread(target=watch, name="kindling-head-watch", daemon=True).start()
    try:
        yield
    except BaseException:
        if lost:
            raise lost[0] from None
        raise
    finally:
        ended.set()


def head_lost() -> StoppedError:
    """Makes the error for a cluster whose head does not answer."""
    return StoppedError(
        "cluster.address", None, "the head of the Ray cluster does not answer any more",
        "start a cluster, then run the same command there: it resumes, and no finished row is lost",
    )  # fmt: skip


def cause_line(error: Exception) -> str:
    """Returns the line of a Ray error that names its cause: the last one, below a table of ids."""
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[-1].split())

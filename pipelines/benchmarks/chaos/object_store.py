"""An S3 server for the chaos runs, a proxy before it that disturbs requests, and a copy of a run to look at.

The server is moto's, on loopback, in a process of its own. Drivers reach it through the proxy. The reader of the run
reaches it directly, and copies what lies there into a local folder.
"""

import contextlib
import http.client
import importlib.util
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from schemas.errors import JobError

_BUCKET = "kindling-chaos"
_START_SECONDS = 60.0
# A driver that is killed keeps the others out for so long; in production it is a minute.
LEASE_SECONDS = 12.0
_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true", "KINDLING_LEASE_SECONDS": str(LEASE_SECONDS),
}  # fmt: skip
# Share of the requests that meet a fault. Packages repeat requests by themselves, so most faults end there.
SHARES = {
    "refused": 0.02,  # answered with 503, and not applied
    "dropped": 0.02,  # the connection is closed, and the request is not applied
    "delayed": 0.03,
    "answer lost": 0.02,  # applied; the connection is closed
    "applied and refused": 0.02,  # applied, and answered with 503
    "stale": 0.05,  # a listing as it was when it was last asked for
}
_MAX_DELAY_SECONDS = 3.0
_NOT_FORWARDED = ("expect", "connection", "transfer-encoding")
_UNAVAILABLE = b"<Error><Code>ServiceUnavailable</Code><Message>Please try again.</Message></Error>"
# In this order a file that is in one of the folders while its shard is committed is found in one of the copies.
_FOLDERS = ("log", "data", "rejected", "errors", "tries")


@dataclass(frozen=True)
class ObjectStore:
    """A running store.

    Attributes:
        url: folder for the runs.
        faults: number of requests that met each fault, and of all requests (`all`).
    """

    url: str
    faults: Counter[str]
    _fs: fsspec.AbstractFileSystem

    def copy(self, run: str, to: Path) -> None:
        """Makes a local folder the copy of a run: what the data, its siblings, the log and the lease are now."""
        self._fs.invalidate_cache()
        root = run.removeprefix("s3://")
        to.mkdir(parents=True, exist_ok=True)
        for folder in _FOLDERS:
            (to / folder).mkdir(exist_ok=True)
            listed = self._fs.find(f"{root}/{folder}")
            for gone in {path.name for path in (to / folder).iterdir()} - {name.rsplit("/", 1)[-1] for name in listed}:
                (to / folder / gone).unlink()
            for name in listed:
                self._copy_file(name, to / folder / name.rsplit("/", 1)[-1])
        self._copy_file(f"{root}/run.lock", to / "run.lock")

    def _copy_file(self, name: str, to: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # removed since the listing
            content = self._fs.cat_file(name)
            if not to.exists() or to.read_bytes() != content:
                to.write_bytes(content)


@contextlib.contextmanager
def object_store(draw: random.Random) -> Iterator[ObjectStore]:
    """Starts a server and its proxy; the environment leads to the proxy while the block runs.

    Raises:
        JobError: a package is missing.
    """
    if missing := [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]:
        raise JobError("--store", "s3", f"needs {', '.join(missing)}", "pip install 's3fs' 'moto[s3,server]'")
    port = _free_port()
    command = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    server = subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    proxy = _Proxy(port, draw)
    before = {name: os.environ.get(name) for name in (*_SETTINGS, "AWS_ENDPOINT_URL")}
    os.environ.update(_SETTINGS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.server_port}")
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        fs = fsspec.filesystem("s3", endpoint_url=f"http://127.0.0.1:{port}", use_listings_cache=False)
        _wait_for(port)
        fs.mkdir(_BUCKET)
        yield ObjectStore(f"s3://{_BUCKET}", proxy.faults, fs)
    finally:
        proxy.shutdown()
        server.kill()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _wait_for(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > end:
            raise JobError("--store", "s3", f"the server did not start in {_START_SECONDS:.0f} s", "start it again")
        time.sleep(0.2)


class _Proxy(ThreadingHTTPServer):
    """Forwards requests to a server, and disturbs some of them."""

    daemon_threads = True

    def __init__(self, port: int, draw: random.Random) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.port, self.draw, self.lock = port, draw, threading.Lock()
        self.faults: Counter[str] = Counter()
        self.listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}

    def draw_fault(self, is_listing: bool) -> tuple[str, float]:
        """Draws the fault of one request ("": none), and the seconds of a delay."""
        with self.lock:
            share, self.faults["all"] = self.draw.random(), self.faults["all"] + 1
            for name, limit in SHARES.items():
                if name == "stale" and not is_listing:
                    continue
                if share < limit:
                    self.faults[name] += 1
                    return name, self.draw.uniform(0, _MAX_DELAY_SECONDS)
                share -= limit
        return "", 0.0


class _Request(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: _Proxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        is_listing = self.command == "GET" and "list-type=2" in urlsplit(self.path).query
        fault, seconds = self.server.draw_fault(is_listing)
        if fault == "dropped":
            return
        if fault == "refused":
            return self._answer(503, [], _UNAVAILABLE)
        if fault == "delayed":
            time.sleep(seconds)
        stale = self.server.listings.get(self.path)
        answer = stale if fault == "stale" and stale else self._forward(body)
        if is_listing:
            self.server.listings[self.path] = answer
        if fault == "answer lost":
            return
        if fault == "applied and refused":
            return self._answer(503, [], _UNAVAILABLE)
        self._answer(*answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        with contextlib.closing(connection):
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")
            }
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the driver was killed meanwhile
            self.send_response_only(status)
            kept = [pair for pair in headers if pair[0].lower() not in _NOT_FORWARDED]
            if not any(name.lower() == "content-length" for name, _ in kept):
                kept.append(("Content-Length", str(len(body))))
            for name, value in [*kept, ("Connection", "close")]:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Writes no line for a request."""

"""Drives a headless Chromium over its debugging pipe: no driver, no port, and nothing to install but the browser."""

import json
import os
import shutil
import socket
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_VIRTUAL_KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}


class Browser:
    """One page of a browser with a profile of its own.

    Attributes:
        events: what the browser told, as (method, parameters).
    """

    def __init__(self, profile):
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]  # fmt: skip
        # Chromium reads commands from descriptor 3 and writes to 4; its wrapper script passes both on.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs.fileno()} 4>&{theirs.fileno()}', "bash", *command]
        environment = {**os.environ, "HOME": str(profile)}
        self._process = subprocess.Popen(
            shell, pass_fds=[theirs.fileno()], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._socket, self._received, self._last, self.events = ours, b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()  # a browser whose pipe ends closes itself
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()

    def call(self, method, **parameters):
        self._last += 1
        session = {"sessionId": self._session} if getattr(self, "_session", None) else {}
        message = {"id": self._last, "method": method, "params": parameters, **session}
        self._socket.sendall(json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._last:
                assert "error" not in got, (method, got["error"])
                return got["result"]

    def _next(self):
        while b"\0" not in self._received:
            part = self._socket.recv(1 << 16)
            assert part, "the browser closed its pipe"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        got = json.loads(message)
        if "method" in got:
            self.events.append((got["method"], got["params"]))
        return got

    def until(self, method, since=0):
        """Waits for an event after the first `since`."""
        while not any(name == method for name, _ in self.events[since:]):
            self._next()

    def open(self, url):
        since = len(self.events)
        self.call("Page.navigate", url=url)
        self.until("Page.loadEventFired", since)

    def reload(self):
        since = len(self.events)
        self.call("Page.reload")
        self.until("Page.loadEventFired", since)

    def value(self, expression):
        """Of a JavaScript expression, as JSON values."""
        got = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def press(self, key, shift=False):
        """One key as a person presses it."""
        text = key if len(key) == 1 else "\r" if key == "Enter" else ""
        code = _VIRTUAL_KEYS.get(key) or ord(key.upper())
        of_key = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **of_key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **of_key)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def download_to(self, folder):
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)

    def downloaded(self, path, seconds=20):
        end = time.monotonic() + seconds
        while not path.is_file():
            assert time.monotonic() < end, f"{path} was not downloaded"
            time.sleep(0.05)
        return path

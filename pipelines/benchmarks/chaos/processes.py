"""The processes of a chaos run: its driver, which is started again and again, and its replicas and their engines."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

_LAST_CHARACTERS = 2000
_ERROR_CHARACTERS = 200


class Driver:
    """`kindling augment` in a process of its own, with its output in `log`."""

    def __init__(self, job_file: Path, failpoint: str = "") -> None:
        self.failpoint = failpoint
        self._log = job_file.with_suffix(".log")
        self._log_starts_at = self._log.stat().st_size if self._log.exists() else 0
        environment = {**os.environ, "KINDLING_FAILPOINT": failpoint} if failpoint else None
        command = [sys.executable, "-m", "pipelines", "augment", str(job_file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.process = psutil.Process(self._process.pid)

    def wait(self, seconds: float) -> int | None:
        """Its exit code (of a signal: negative), or None where it still runs after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def kill(self) -> None:
        """Ends it, if it runs."""
        self._process.kill()
        self._process.wait()

    def error(self) -> str:
        """Why it ended, where it says so; else the end of what it wrote."""
        lines = [line for line in self.last_words().splitlines() if line.startswith(("error:", "stopped:"))]
        return lines[-1][:_ERROR_CHARACTERS] if lines else self.last_words()

    def last_words(self) -> str:
        """The end of what it wrote."""
        return self._log.read_bytes()[self._log_starts_at :].decode(errors="replace")[-_LAST_CHARACTERS:]


class Census:
    """The replicas of the Ray cluster that this process started, and their engines' processes."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()

    def replicas(self) -> list[psutil.Process]:
        """Those that run now, also before their engine is up."""
        found = [each for each in psutil.Process().children(recursive=True) if _title(each).startswith("ray::Replica")]
        self._seen.update(found)
        return found

    def engines(self, replica: psutil.Process) -> list[psutil.Process]:
        """The processes of vLLM's engine in a replica; the fake engine has none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = replica.children(recursive=True)
            self._seen.update(children)
            return [each for each in children if any(word in _title(each) for word in ("VLLM", "spawn_main"))]
        return []

    def left_behind(self, seconds: float) -> list[str]:
        """What still runs after so long, when all should have ended."""
        end = time.monotonic() + seconds
        while (alive := [each for each in {*self._seen, *self.replicas()} if _title(each)]) and time.monotonic() < end:
            time.sleep(0.2)
        return [f"{each.pid} {_title(each)}" for each in alive]


def _title(process: psutil.Process) -> str:
    """Its command line; "" once it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) if process.is_running() else ""
    return ""

"""The processes of a chaos run: its driver, which is started again and again, its replicas, and their engines."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

_OUTPUT_CHARACTERS = 2000
_ERROR_CHARACTERS = 200


class Driver:
    """`kindling augment` in a process of its own.

    Its output is added to a log beside the job file, to which all drivers of the run write.

    Args:
        failpoint: the failpoint at which the driver kills itself, as in KINDLING_FAILPOINT; "": none.
    """

    def __init__(self, job_file: Path, failpoint: str = "") -> None:
        self.failpoint = failpoint
        self._log = job_file.with_suffix(".log")
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        environment = {**os.environ, "KINDLING_FAILPOINT": failpoint} if failpoint else None
        command = [sys.executable, "-m", "pipelines", "augment", str(job_file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.process = psutil.Process(self._process.pid)

    def wait(self, seconds: float) -> int | None:
        """Returns the exit code (negative for a signal), or None where the driver still runs after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def kill(self) -> None:
        """Ends the driver, if it runs."""
        self._process.kill()
        self._process.wait()

    def error(self) -> str:
        """Returns the driver's last error message, or the end of its output where it printed none."""
        lines = [line for line in self.last_output().splitlines() if line.startswith(("error:", "stopped:"))]
        return lines[-1][:_ERROR_CHARACTERS] if lines else self.last_output()

    def last_output(self) -> str:
        """Returns the end of the driver's output."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")[-_OUTPUT_CHARACTERS:]


class ReplicaProcesses:
    """The replicas of the Ray cluster that this process started, and their engines' processes."""

    def __init__(self) -> None:
        self._seen: set[psutil.Process] = set()

    def replicas(self) -> list[psutil.Process]:
        """Returns the replicas that run now, also those whose engine is not up yet."""
        children = psutil.Process().children(recursive=True)
        replicas = [process for process in children if _command_line(process).startswith("ray::Replica")]
        self._seen.update(replicas)
        return replicas

    def engines(self, replica: psutil.Process) -> list[psutil.Process]:
        """Returns the processes of vLLM's engine in a replica; the fake engine has none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = replica.children(recursive=True)
            self._seen.update(children)
            return [
                process
                for process in children
                if any(word in _command_line(process) for word in ("VLLM", "spawn_main"))
            ]
        return []

    def left_behind(self, seconds: float) -> list[str]:
        """Returns the processes that still run after so many seconds, though all should have ended."""
        end = time.monotonic() + seconds
        while (alive := self._alive()) and time.monotonic() < end:
            time.sleep(0.2)
        return [f"{process.pid} {_command_line(process)}" for process in alive]

    def _alive(self) -> list[psutil.Process]:
        return [process for process in {*self._seen, *self.replicas()} if _command_line(process)]


def _command_line(process: psutil.Process) -> str:
    """Returns a process's command line; "" once it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) if process.is_running() else ""
    return ""

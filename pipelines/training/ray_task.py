"""Ray task that trains one of several jobs, and the actor to which tasks report their progress."""

import logging
import os
import socket
from typing import Any

from pipelines.training.train import train
from schemas.train import TrainJob

_log = logging.getLogger("kindling")

# Environment variables from which numerical libraries take their number of threads.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")


class ProgressBoard:
    """Actor that keeps the last log line of each task, by its run folder."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def write(self, path: str, line: str) -> None:
        """Keeps the last line of the task that trains in this folder."""
        self._lines[path] = line

    def read(self) -> dict[str, str]:
        """Returns the lines that were written since the last call: run folder -> line."""
        lines, self._lines = self._lines, {}
        return lines


def task_environment(gpus: float, cpus: int) -> dict[str, str]:
    """Returns the environment variables of a task's process."""
    threads = {name: str(cpus) for name in _THREAD_VARIABLES}
    # The GPUs of its node belong to other tasks, and Ray hides none from a task that asked for none.
    return threads if gpus else {**threads, "CUDA_VISIBLE_DEVICES": ""}


def run_training_task(job: TrainJob, board: Any, folder: str) -> tuple[dict[str, Any], list[str]]:
    """Trains a job in a Ray task.

    Args:
        job: the job; its output path is absolute.
        board: handle of the `ProgressBoard` actor.
        folder: working folder of the driver, to which relative paths of the job refer.

    Returns:
        The report in plain values, and as lines for a person: so the driver need not load torch to read it.
    """
    if os.path.isdir(folder):
        os.chdir(folder)
    _log.setLevel(logging.INFO)
    _log.addHandler(_BoardHandler(board, job.output.path))
    _log.info("starts on %s", socket.gethostname())
    report = train(job)
    return report.as_json(), report.lines()


class _BoardHandler(logging.Handler):
    """Log handler that writes each line to the board."""

    def __init__(self, board: Any, path: str) -> None:
        super().__init__()
        self._board, self._path = board, path

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a log line to the board, without waiting for it."""
        self._board.write.remote(self._path, record.getMessage())

"""The Ray task of one of several trainings, and the actor that it tells how far it is."""

import logging
import os
import socket
from typing import Any

from pipelines.training.train import train
from schemas.train import TrainJob

_log = logging.getLogger("kindling")

# What the libraries that compute take for the number of their threads.
_THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")


class Board:
    """The actor: what each task said last, by the folder it trains in."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def tell(self, path: str, line: str) -> None:
        """Notes how far a task is."""
        self._said[path] = line

    def read(self) -> dict[str, str]:
        """What was said since the last call."""
        said, self._said = self._said, {}
        return said


def environment_of(gpus: float, cpus: int) -> dict[str, str]:
    """What the process of a task is started with."""
    threads = {name: str(cpus) for name in _THREADS}
    return threads if gpus else {**threads, "CUDA_VISIBLE_DEVICES": ""}  # the GPUs of its node are others'


def train_task(job: TrainJob, board: Any, folder: str) -> tuple[dict[str, Any], list[str]]:
    """The task.

    Args:
        board: the actor.
        folder: the caller's, by which the job names files.

    Returns:
        The report in plain values, and in lines for a person: so the driver need not load what trains.
    """
    if os.path.isdir(folder):
        os.chdir(folder)
    _log.setLevel(logging.INFO)
    _log.addHandler(_Teller(board, job.output.path))
    _log.info("starts on %s", socket.gethostname())
    report = train(job)
    return report.as_json(), report.lines()


class _Teller(logging.Handler):
    """Tells the board what is logged."""

    def __init__(self, board: Any, path: str) -> None:
        super().__init__()
        self._board, self._path = board, path

    def emit(self, record: logging.LogRecord) -> None:
        self._board.tell.remote(self._path, record.getMessage())

"""Several trainings at once, each a Ray task with its own resources: `kindling train JOB JOB ...`.

A task is a process of its own, that trains as `kindling train JOB` does and tells this one, the driver, how far it is.
One that dies is tried again, and goes on from its last checkpoint.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from fsspec.implementations.local import LocalFileSystem
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import Progress, TextColumn

from pipelines.jobfile import as_job
from pipelines.run_folder import refuse_lost_path
from pipelines.stopping import stop_signals
from pipelines.training.folder import LOG_NAME
from pipelines.training.ray_task import Board, environment_of, train_task
from schemas.errors import EngineError, JobError, KindlingError, StoppedError
from schemas.train import ClassifierStage, TrainJob, TrainOutput
from services.cluster import cause_line, connect_to_ray, is_head_reachable
from services.observability.terminal import shows_bars
from services.replicas.placement import cpus_per_actor, fits_on_a_node

_log = logging.getLogger("kindling")

# As often as Ray tries a task by default: the first time, and three times more.
_MOST_TRIES = 4
_LOOK_SECONDS = 1.0
# Without a terminal each training has a line this often.
_LINE_SECONDS = 60.0


@dataclass(frozen=True)
class Trained:
    """What came of one of several trainings.

    Attributes:
        path: its folder.
        seconds: of this start, with what it waited for resources.
        report: as `train` gives it, in plain values; None where it did not come to its end.
        lines: the same for a person.
        error: what ended it before.
    """

    name: str
    path: str
    seconds: float
    report: dict[str, Any] | None = None
    lines: tuple[str, ...] = ()
    error: KindlingError | None = None

    @property
    def state(self) -> Literal["done", "stopped", "failed"]:
        """Stopped is what the same call goes on with, failed what has to be mended first."""
        if self.error is None:
            return "done"
        return "stopped" if isinstance(self.error, StoppedError) else "failed"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        error = str(self.error) if self.error else None
        return {
            "name": self.name, "path": self.path, "state": self.state, "seconds": self.seconds, "error": error,
            "report": self.report,
        }  # fmt: skip


def train_all(jobs: Iterable[TrainJob | Mapping[str, Any] | str | Path], address: str | None = None) -> list[Trained]:
    """Trains what several jobs ask for, as many at once as there are resources; one that fails leaves the others.

    Args:
        jobs: each as `train` takes it.
        address: of the Ray cluster; by default RAY_ADDRESS, else a Ray of this call's own on this machine.

    Returns:
        what came of each, in their order. A signal ends all with a checkpoint, and their state is then "stopped".

    Raises:
        KindlingError: a job is at fault, two have one folder, or there is no cluster; nothing was started.
        StoppedError: the cluster is gone.
    """
    students = [_Student(as_job(job, TrainJob)) for job in jobs]
    _refuse_one_folder_for_two(students)
    with stop_signals(grace_seconds=0) as stop_within, connect_to_ray(address):
        return _Trainings(students).run(lambda: stop_within() is not None)


class _Student:
    """A training as the driver sees it.

    Attributes:
        task: that trains it now.
        line: how far it is.
        result: what came of it, once that is known.
    """

    def __init__(self, job: TrainJob) -> None:
        refuse_lost_path(job.output.path, LocalFileSystem())
        self.path = os.path.abspath(os.path.expanduser(job.output.path))
        # A task may run in another folder than this call.
        self.job = job.model_copy(update={"output": TrainOutput(path=self.path)})
        self.began, self.tries, self.line = time.monotonic(), 0, ""
        self.task: ray.ObjectRef | None = None
        self.result: Trained | None = None


def _refuse_one_folder_for_two(students: list[_Student]) -> None:
    names: dict[str, str] = {}
    for student in students:
        name, path = student.job.name, os.path.realpath(student.path)
        if path in names:
            remedy = "give each job a folder of its own; what --set says holds for all of them"
            raise JobError("output.path", path, f"it is the folder of {names[path]} and of {name}", remedy)
        names[path] = name


class _Trainings:
    def __init__(self, students: list[_Student]) -> None:
        self._students, self._stopping = students, False
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self._board = ray.remote(Board).options(**options).remote()

    def run(self, should_stop: Callable[[], bool]) -> list[Trained]:
        for student in self._students:
            self._start(student)
        with _Display(self._students) as display:
            while running := {each.task: each for each in self._students if each.result is None}:
                ended, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
                for task in ended:
                    self._end(running[task])
                if not ended:
                    self._look()
                if should_stop() and not self._stopping:
                    self._stop()
                display.update()
        return [student.result for student in self._students if student.result]

    def _start(self, student: _Student) -> None:
        gpus, cpus = _resources(student.job, len(self._students))
        student.tries += 1
        student.line = f"waits for {f'{gpus:g} GPUs and ' if gpus else ''}{cpus} CPUs"
        if not fits_on_a_node(gpus, cpus):
            _log.warning(
                "%s %s, and no node has so many: add a node, or lower `resources` in its job", student.job.name,
                student.line,
            )  # fmt: skip
        # Each has a process of its own (max_calls), and is tried again here, where its death can be told (max_retries).
        task = ray.remote(
            num_gpus=gpus, num_cpus=cpus, runtime_env={"env_vars": environment_of(gpus, cpus)}, max_calls=1,
            max_retries=0, scheduling_strategy="SPREAD",
        )(train_task)  # fmt: skip
        student.task = task.options(name=student.job.name).remote(student.job, self._board, os.getcwd())

    def _stop(self) -> None:
        self._stopping = True
        for student in self._students:
            if student.result is None:
                ray.cancel(student.task)  # one that runs takes it for Ctrl-C, and one that waits never starts

    def _end(self, student: _Student) -> None:
        """Of a task that has ended: its result, or its next try."""
        name = student.job.name
        try:
            report, lines = ray.get(student.task)
        except ray.exceptions.TaskCancelledError:
            error = StoppedError("", None, "it was stopped before its first step", "the same command goes on")
            self._close(student, error=error)
        except ray.exceptions.RayTaskError as failed:
            error = failed.cause
            if isinstance(error, StoppedError) and not self._stopping:
                self._lost(student, "its machine stopped it")
            elif isinstance(error, KindlingError):
                self._close(student, error=error)
            else:
                cause, log = f"{type(error).__name__}: {error}", os.path.join(student.path, LOG_NAME)
                remedy = f"this is a fault of Kindling's own, or of a library; where it had begun {log} tells more"
                self._close(student, error=EngineError(name, None, cause, remedy))
        except ray.exceptions.RayError as died:
            self._lost(student, cause_line(died))
        else:
            self._close(student, report=report, lines=tuple(lines))

    def _lost(self, student: _Student, cause: str) -> None:
        if student.tries < _MOST_TRIES and not self._stopping:
            _log.warning(
                "%s: its process died (%s); it goes on from its last checkpoint. If that comes again, memory is the "
                "commonest reason: see its %s", student.job.name, cause, LOG_NAME,
            )  # fmt: skip
            return self._start(student)
        times = f"its process died {student.tries} times" if student.tries > 1 else "its process died"
        remedy = f"memory is the commonest reason, see its {LOG_NAME}; the same command goes on"
        self._close(student, error=StoppedError(student.job.name, None, f"{times}: {cause}", remedy))

    def _close(self, student: _Student, **result: Any) -> None:
        seconds = round(time.monotonic() - student.began, 1)
        trained = Trained(student.job.name, student.path, seconds, **result)
        student.result, student.line = trained, trained.state
        _log.info("%s: %s", student.job.name, trained.state + (f": {trained.error.cause}" if trained.error else ""))

    def _look(self) -> None:
        """What the tasks said since.

        Raises:
            StoppedError: the cluster is gone.
        """
        if not is_head_reachable():
            cause = "the head of the Ray cluster does not answer any more"
            raise StoppedError("RAY_ADDRESS", None, cause, "start a cluster; the same command goes on there")
        try:
            said = ray.get(self._board.read.remote(), timeout=_LOOK_SECONDS)
        except ray.exceptions.RayError:  # it may be starting again; what it had was told
            return
        for student in self._students:
            if student.result is None and student.path in said:
                student.line = said[student.path]


def _resources(job: TrainJob, jobs: int) -> tuple[float, int]:
    """GPUs and cores of a task."""
    gpus, language = job.resources.gpus, not isinstance(job.stages[0], ClassifierStage)
    if gpus is None:
        gpus = 1.0 if language and ray.cluster_resources().get("GPU") else 0.0
    return gpus, job.resources.cpus or (1 if gpus else cpus_per_actor(jobs))


class _Display:
    """A line of each training on stderr: on a terminal it stays in its place, in a log it comes again."""

    def __init__(self, students: list[_Student]) -> None:
        self._students, self._told_at = students, time.monotonic()
        self._rows = Progress(
            TextColumn("{task.description}", markup=False), TextColumn("{task.fields[line]}", markup=False),
            console=Console(stderr=True), disable=not shows_bars(),
        )  # fmt: skip
        self._tasks = [self._rows.add_task(student.job.name, line="") for student in students]

    def __enter__(self) -> "_Display":
        self._rows.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.update()
        self._rows.stop()

    def update(self) -> None:
        for task, student in zip(self._tasks, self._students, strict=True):
            self._rows.update(task, line=student.line)
        if self._rows.disable and time.monotonic() - self._told_at > _LINE_SECONDS:
            self._told_at = time.monotonic()
            for student in self._students:
                if student.result is None:
                    _log.info("%s: %s", student.job.name, student.line)

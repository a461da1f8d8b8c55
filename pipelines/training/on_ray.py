"""Several trainings at once, each a Ray task with its own resources: `kindling train JOB JOB ...`.

A task is a process that trains as `kindling train JOB` does, and sends its log lines to this process, the driver.

Invariant: every job has one result, in the order of the jobs, whatever dies. A task whose process dies is started again
and continues from its last checkpoint; a job that fails leaves the others alone.
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

from pipelines.jobfile import as_job
from pipelines.run_folder import refuse_lost_path
from pipelines.stopping import stop_signals
from pipelines.training.folder import LOG_NAME
from pipelines.training.ray_task import ProgressBoard, run_training_task, task_environment
from schemas.errors import EngineError, JobError, KindlingError, StoppedError
from schemas.train import ClassifierStage, TrainJob, TrainOutput
from services.cluster import cause_line, connect_to_ray, is_head_reachable
from services.observability.terminal import JobLines
from services.replicas.placement import cpus_per_actor
from services.replicas.resource_wait import ResourceWait

_log = logging.getLogger("kindling")

# As many as Ray makes by default: the first one and three retries.
_MAX_STARTS = 4
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingResult:
    """Result of one of several trainings.

    Attributes:
        name: name of the job.
        path: run folder.
        seconds: seconds of this start, including the wait for resources.
        report: report of `train` in plain values; None where the training was not finished.
        lines: the report as lines for a person.
        error: error that ended the training before its end.
    """

    name: str
    path: str
    seconds: float
    report: dict[str, Any] | None = None
    lines: tuple[str, ...] = ()
    error: KindlingError | None = None

    @property
    def state(self) -> Literal["done", "stopped", "failed"]:
        """State of the training. The same call resumes a stopped one; a failed one needs a repair first."""
        if self.error is None:
            return "done"
        return "stopped" if isinstance(self.error, StoppedError) else "failed"

    def as_json(self) -> dict[str, Any]:
        """Returns the result in plain values, for `--json`."""
        error = str(self.error) if self.error else None
        return {
            "name": self.name, "path": self.path, "state": self.state, "seconds": self.seconds, "error": error,
            "report": self.report,
        }  # fmt: skip


def train_all(
    jobs: Iterable[TrainJob | Mapping[str, Any] | str | Path], address: str | None = None
) -> list[TrainingResult]:
    """Trains several jobs, as many at once as there are resources for.

    Args:
        jobs: jobs in any form that `train` takes.
        address: address of a Ray cluster. By default RAY_ADDRESS; without it, a Ray is started on this machine.

    Returns:
        The results, in the order of the jobs. A stop signal ends all trainings with a checkpoint, and their state is
        then "stopped".

    Raises:
        KindlingError: a job has a fault, two jobs have one folder, or there is no cluster. Nothing was started.
        StoppedError: the cluster is gone.
    """
    trainings = [_Training(as_job(job, TrainJob)) for job in jobs]
    _refuse_shared_folders(trainings)
    with stop_signals(grace_seconds=0) as stop_within, connect_to_ray(address):
        return _Driver(trainings).run(lambda: stop_within() is not None)


class _Training:
    """Training of one job as the driver sees it.

    Attributes:
        job: the job, with an absolute output path: a task may run in another working folder than the driver.
        path: run folder.
        began_at: time at which the driver accepted the job, in seconds of the monotonic clock.
        starts: number of Ray tasks that were started for it.
        line: last progress line.
        task: Ray task that trains it now; None before the first one.
        runs: whether the task has its resources, and has begun.
        wait: the wait for these resources.
        result: result of the training, once it is known.
    """

    wait: ResourceWait

    def __init__(self, job: TrainJob) -> None:
        refuse_lost_path(job.output.path, LocalFileSystem())
        self.path = os.path.abspath(os.path.expanduser(job.output.path))
        self.job = job.model_copy(update={"output": TrainOutput(path=self.path)})
        self.began_at, self.starts, self.line = time.monotonic(), 0, ""
        self.task: ray.ObjectRef[Any] | None = None
        self.runs = False
        self.result: TrainingResult | None = None


def _refuse_shared_folders(trainings: list[_Training]) -> None:
    """Refuses two jobs that have the same output folder."""
    names: dict[str, str] = {}
    for training in trainings:
        name, path = training.job.name, os.path.realpath(training.path)
        if path in names:
            remedy = "give each job a folder of its own; a --set holds for all jobs"
            raise JobError("output.path", path, f"it is the folder of {names[path]} and of {name}", remedy)
        names[path] = name


class _Driver:
    """Starts the tasks of all trainings, waits for them, and starts a task again whose process died."""

    def __init__(self, trainings: list[_Training]) -> None:
        self._trainings, self._stopping = trainings, False
        # On the driver's node where that is possible: the death of another node then leaves the board alone.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self._board: Any = ray.remote(ProgressBoard).options(**options).remote()

    def run(self, should_stop: Callable[[], bool]) -> list[TrainingResult]:
        """Runs all trainings to their end, and returns their results in the order of the jobs.

        Raises:
            StoppedError: the cluster is gone.
        """
        for training in self._trainings:
            self._start(training)
        with JobLines([training.job.name for training in self._trainings]) as shown:
            while running := {training.task: training for training in self._trainings if training.result is None}:
                ended, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
                for task in ended:
                    self._end(running[task], task)
                if not ended:
                    self._read_board()
                    self._check_waits()
                if should_stop() and not self._stopping:
                    self._stop()
                self._show(shown)
            self._show(shown)
        return [training.result for training in self._trainings if training.result]

    def _show(self, shown: JobLines) -> None:
        shown.update(
            [training.line for training in self._trainings], [training.result is None for training in self._trainings]
        )

    def _start(self, training: _Training) -> None:
        training.wait = wait = _resource_wait(training.job, len(self._trainings))
        training.starts += 1
        training.runs, training.line = False, f"waits for {wait.request}"
        try:
            wait.begin(training.job.name)
        except JobError as error:
            return self._close(training, error=error)
        # max_calls=1 gives each task a process of its own: torch's threads and GPU memory end with it. With
        # max_retries=0 Ray reports a death, and this driver starts the next task.
        task = ray.remote(
            num_gpus=wait.gpus, num_cpus=wait.cpus, max_calls=1, max_retries=0, scheduling_strategy="SPREAD",
            runtime_env={"env_vars": task_environment(wait.gpus, wait.cpus)},
        )(run_training_task)  # fmt: skip
        training.task = task.options(name=training.job.name).remote(training.job, self._board, os.getcwd())

    def _stop(self) -> None:
        self._stopping = True
        for training in self._trainings:
            if training.result is None:
                # A running task gets the signal of Ctrl-C, and a waiting one never starts.
                ray.cancel(training.task)

    def _end(self, training: _Training, task: "ray.ObjectRef[Any]") -> None:
        """Takes the result of a task that has ended, or starts its next task."""
        name = training.job.name
        try:
            report, lines = ray.get(task)
        except ray.exceptions.TaskCancelledError:
            error = StoppedError("", None, "it was stopped before its first step", "the same command starts it")
            self._close(training, error=error)
        except ray.exceptions.RayTaskError as failed:
            error = failed.cause
            if isinstance(error, StoppedError) and not self._stopping:
                # Nobody stopped the training but its node, which sent a stop signal.
                self._restart(training, "its machine stopped it")
            elif isinstance(error, KindlingError):
                self._close(training, error=error)
            else:
                cause, log = f"{type(error).__name__}: {error}", os.path.join(training.path, LOG_NAME)
                remedy = f"this is a fault of Kindling or of a library; if the training had begun, {log} says more"
                self._close(training, error=EngineError(name, None, cause, remedy))
        except ray.exceptions.RayError as died:
            self._restart(training, cause_line(died))
        else:
            self._close(training, report=report, lines=tuple(lines))

    def _restart(self, training: _Training, cause: str) -> None:
        """Starts the next task of a training whose process died, or closes it after the last one."""
        if training.starts < _MAX_STARTS and not self._stopping:
            _log.warning(
                "%s: its process died (%s); it continues from its last checkpoint. If it dies again, the most common "
                "reason is too little memory: see its %s", training.job.name, cause, LOG_NAME,
            )  # fmt: skip
            return self._start(training)
        deaths = f"its process died {training.starts} times" if training.starts > 1 else "its process died"
        remedy = f"the most common reason is too little memory, see its {LOG_NAME}; the same command resumes it"
        self._close(training, error=StoppedError(training.job.name, None, f"{deaths}: {cause}", remedy))

    def _close(self, training: _Training, **outcome: Any) -> None:
        """Keeps and logs the result of a training."""
        seconds = round(time.monotonic() - training.began_at, 1)
        result = TrainingResult(training.job.name, training.path, seconds, **outcome)
        training.result, training.line = result, result.state
        _log.info("%s: %s", training.job.name, result.state + (f": {result.error.cause}" if result.error else ""))

    def _check_waits(self) -> None:
        """Closes trainings that have waited for resources for too long. Those that run free theirs for the others."""
        unfinished = [training for training in self._trainings if training.result is None]
        is_busy = any(training.runs for training in unfinished)
        for training in unfinished:
            try:
                training.wait.check(not training.runs and not (is_busy and training.wait.fits()))
            except KindlingError as error:
                ray.cancel(training.task)
                self._close(training, error=error)

    def _read_board(self) -> None:
        """Takes the progress lines of all tasks.

        Raises:
            StoppedError: the cluster is gone.
        """
        if not is_head_reachable():
            cause = "the head of the Ray cluster does not answer any more"
            raise StoppedError("RAY_ADDRESS", None, cause, "start a cluster; the same command resumes there")
        try:
            lines: dict[str, str] = ray.get(self._board.read.remote(), timeout=_POLL_SECONDS)
        except ray.exceptions.RayError:  # the board may be restarting; lines that it loses are followed by others
            return
        for training in self._trainings:
            if training.result is None and training.path in lines:
                training.runs, training.line = True, lines[training.path]


def _resource_wait(job: TrainJob, jobs: int) -> ResourceWait:
    """Returns the wait for the GPUs and CPU cores of a task, where `jobs` trainings share the cluster."""
    gpus, is_language_model = job.resources.gpus, not isinstance(job.stages[0], ClassifierStage)
    if gpus is None:
        gpus = 1.0 if is_language_model and ray.cluster_resources().get("GPU") else 0.0
    cpus = job.resources.cpus or (1 if gpus else cpus_per_actor(jobs))
    return ResourceWait(f"resources.{'gpus' if gpus else 'cpus'}", gpus, cpus, job.resources.wait_minutes)

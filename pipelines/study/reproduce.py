"""`kindling reproduce`: runs the jobs of a study, each in a process of its own.

Invariant: a job starts when all jobs that it needs are done, when its GPUs or cores are free, and when no other process
works on its folder. What is done is not started again. A job whose process is killed is started again, and resumes; a
job that fails leaves those alone that do not need it.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fsspec.implementations.local import LocalFileSystem

from pipelines.reporting.html_page import save_report
from pipelines.reporting.report import report
from pipelines.result import Result
from pipelines.run_folder import claimed, lock_name, refuse_lost_path
from pipelines.run_status.status import status_of_run
from pipelines.run_status.study import read_study_record
from pipelines.stopping import stop_signals
from pipelines.study.plan import Plan, read_plan
from pipelines.study.processes import JobProcess, write_job_file
from pipelines.study.record import is_complete, is_done, new_record, write_study_record
from pipelines.study.resources import Resources, local_devices, total_resources, wanted_resources
from schemas.errors import JobError, KindlingError, StoppedError
from schemas.study import StudyRecord
from schemas.text import clock, plural, shorten
from services.observability.terminal import JobLines
from services.storage.lease import read_lease
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")

# The first start, and three more after deaths of the process.
_MAX_STARTS = 4
_POLL_SECONDS = 0.5
# A status reads the files of a run, which takes longer than a look at its process.
_STATUS_SECONDS = 5.0
_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class StudyResult(Result):
    """Result of `reproduce`.

    Attributes:
        study: folder of the study.
        states: state of each job of the study: `done`; `failed` or `stopped`; `waiting` where it needs such a job, or
            was not chosen.
        errors: error of each job that failed or was stopped.
        seconds: seconds that each job ran, over all starts.
        report: path of the report's page; None as long as a job is not done.
    """

    study: str
    states: dict[str, Literal["waiting", "running", "done", "failed", "stopped"]]
    errors: dict[str, str]
    seconds: dict[str, float]
    report: str | None

    @property
    def complete(self) -> bool:
        """True where all jobs of the study are done."""
        return all(state == "done" for state in self.states.values())

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each job."""
        return [
            {"job": name, "state": state, "seconds": self.seconds[name], "error": self.errors.get(name, "")}
            for name, state in self.states.items()
        ]


def reproduce(
    study: Plan | str | Path,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    start: str | None = None,
    address: str | None = None,
) -> StudyResult:
    """Runs the jobs of a study that are not done yet.

    Args:
        study: path of the study file, or what `read_plan` made of it.
        overrides: `key.of.section=value`, as `--set` takes them; of a file.
        only: names of jobs: these alone.
        start: name of a job: it and the jobs that need it.
        address: address of a Ray cluster, by default RAY_ADDRESS; without it each job runs on this machine.

    Raises:
        JobError: the study or one of its jobs has a fault, or a chosen job needs one that is neither done nor chosen.
        RunError: the folder holds something else, or another process runs the study; or the report cannot be made.
        StoppedError: a stop signal came. The same call goes on.
    """
    plan = study if isinstance(study, Plan) else read_plan(str(study), list(overrides))
    chosen = plan.chosen(list(only), start)
    refuse_lost_path(plan.study.output.path, LocalFileSystem())
    address = address or os.environ.get("RAY_ADDRESS")
    total = total_resources(address)
    store = ShardStore(plan.study.output.path)
    with claimed(store, "reproduce", resumable=True):
        record = new_record(plan, read_study_record(store))
        _check_needs(plan, chosen, record)
        for name in chosen:
            write_job_file(plan.jobs[name], store.root)
        write_study_record(store, record)
        with stop_signals(_GRACE_SECONDS) as stop_within:
            was_stopped = _Runner(plan, chosen, record, store, total, address).run(stop_within)
    stopped = [name for name in chosen if record.jobs[name].state == "stopped"]
    if stopped or (was_stopped and any(record.jobs[name].state == "waiting" for name in chosen)):
        done = sum(record.jobs[name].state == "done" for name in chosen)
        lines = [f"{done} of {plural(len(chosen), 'job')} are done"]
        lines += [f"{name}: {record.jobs[name].error}" for name in stopped]
        raise StoppedError("", None, "\n  ".join(lines), "the same command goes on")
    states = {name: job.state for name, job in record.jobs.items()}
    errors = {name: job.error for name, job in record.jobs.items() if job.error}
    seconds = {name: round(job.seconds, 1) for name, job in record.jobs.items()}
    result = StudyResult(store.url, states, errors, seconds, report=None)
    return replace(result, report=save_report(report(store.url))) if result.complete else result


def _check_needs(plan: Plan, chosen: list[str], record: StudyRecord) -> None:
    """Refuses a choice of jobs that needs others which are not done.

    Raises:
        JobError: a chosen job needs one that is neither done nor chosen.
    """
    for name in chosen:
        for other in plan.jobs[name].needs:
            if other not in chosen and not is_done(plan.jobs[other], record.jobs[other]):
                cause = f"it needs the output of {other}, which is not done"
                raise JobError("jobs", name, cause, f"run that first: --only {other}, or leave the choice out")


class _Runner:
    """Starts the processes of the chosen jobs, waits for them, and keeps the record."""

    def __init__(
        self, plan: Plan, chosen: list[str], record: StudyRecord, store: ShardStore, total: Resources,
        address: str | None,
    ) -> None:  # fmt: skip
        self._plan, self._chosen, self._record, self._store = plan, chosen, record, store
        self._total, self._address = total, address
        self._wanted = {name: wanted_resources(plan.jobs[name], total) for name in chosen}
        self._running: dict[str, tuple[JobProcess, float]] = {}
        self._devices: dict[str, list[str]] = {}
        self._lines = dict.fromkeys(chosen, "")
        self._starts = dict.fromkeys(chosen, 0)
        self._given_up = set[str]()
        self._looked_at, self._stop_signals = 0.0, 0

    def run(self, stop_within: Callable[[], float | None]) -> bool:
        """Runs all chosen jobs to their end; returns whether it was stopped before."""
        waiting = [name for name in self._chosen if not self._find_done(name)]
        with JobLines(self._chosen) as shown:
            try:
                while waiting or self._running:
                    left = stop_within()
                    if left is None:
                        waiting = self._start_ready(waiting)
                    else:
                        waiting = []
                        self._stop(left)
                    time.sleep(_POLL_SECONDS)
                    waiting = [*self._end_finished(), *waiting]
                    self._look()
                    self._show(shown)
            finally:
                for process, _ in self._running.values():  # an error of this process: its jobs stop in good order
                    process.stop()
            self._show(shown)
        return stop_within() is not None

    def _show(self, shown: JobLines) -> None:
        shown.update([self._lines[name] for name in self._chosen], [name in self._running for name in self._chosen])

    def _find_done(self, name: str) -> bool:
        """Returns whether a job is done already, and notes it."""
        done = is_done(self._plan.jobs[name], self._record.jobs[name])
        self._lines[name] = "done" if done else "waits"
        if not done:
            self._record.jobs[name].state, self._record.jobs[name].error = "waiting", ""
        return done

    def _start_ready(self, waiting: list[str]) -> list[str]:
        """Starts the jobs that can start, and returns those that wait; those that need a failed job are given up."""
        left = []
        for name in waiting:
            planned = self._plan.jobs[name]
            states = {self._record.jobs[other].state for other in planned.needs}
            if states.intersection(("failed", "stopped")) or self._given_up.intersection(planned.needs):
                self._given_up.add(name)
                self._lines[name] = "not started: it needs a job that did not end"
            elif states - {"done"} or not self._has_room(name):
                left.append(name)
            elif read_lease(ShardStore(planned.folder), lock_name(planned.verb)).is_running:
                self._lines[name] = "waits for another process that works on its folder"
                left.append(name)
            else:
                self._start(name)
        return left

    def _has_room(self, name: str) -> bool:
        """Returns whether the GPUs and cores of a job are free. A job that wants more than there is runs alone."""
        used = sum((self._wanted[other] for other in self._running), Resources(0, 0))
        return not self._running or (used + self._wanted[name]).fit(self._total)

    def _start(self, name: str) -> None:
        job = self._record.jobs[name]
        job.state, job.identity, job.error = "running", self._plan.jobs[name].identity, ""
        job.starts += 1
        self._starts[name] += 1
        devices = self._free_devices(name)
        self._running[name] = (
            JobProcess(self._plan.jobs[name], self._store.root, self._address, devices),
            time.monotonic(),
        )
        self._devices[name] = devices or []
        self._lines[name] = "starts"
        _log.info("%s: starts, %s", name, self._plan.jobs[name].verb)
        write_study_record(self._store, self._record)

    def _free_devices(self, name: str) -> list[str] | None:
        """Returns free GPUs for a job of this machine; None where Ray gives them, or there are none."""
        if self._address or not self._total.gpus:
            return None
        taken = {device for other in self._running for device in self._devices[other]}
        free = [device for device in local_devices() if device not in taken]
        return free[: int(self._wanted[name].gpus)]

    def _end_finished(self) -> list[str]:
        """Takes the results of jobs that have ended; returns those that are to be started again."""
        again = []
        for name, (process, began) in list(self._running.items()):
            if (code := process.exit_code()) is None:
                continue
            del self._running[name]
            job = self._record.jobs[name]
            job.seconds += time.monotonic() - began
            job.state, job.error = self._ending(name, code, process)
            if job.state == "waiting":
                _log.warning("%s: its process was killed (%s); it starts again", name, signal.Signals(-code).name)
                again.append(name)
            else:
                self._lines[name] = f"{job.state}, {clock(job.seconds)}"
                _log.info("%s: %s%s", name, self._lines[name], f": {shorten(job.error)}" if job.error else "")
            if job.state == "done":
                job.files = self._plan.jobs[name].files_digest()
            write_study_record(self._store, self._record)
        return again

    def _ending(
        self, name: str, code: int, process: JobProcess
    ) -> tuple[Literal["waiting", "done", "failed", "stopped"], str]:
        """Returns the state and the error that follow from the exit code of a job."""
        planned = self._plan.jobs[name]
        if code == 0 and is_complete(planned):
            return "done", ""
        if code < 0 and not self._stop_signals:
            if self._starts[name] < _MAX_STARTS:
                return "waiting", ""
            cause = f"its process was killed {self._starts[name]} times, the last time by {signal.Signals(-code).name}"
            return "failed", f"{cause}; the most common reason is too little memory. See {process.log}"
        error = process.error() or f"it ended with exit code {code}"
        if "another job" in error:
            # No other job lies there but an older version of this one.
            error += f"\n  in a study: move {planned.folder} away to have it made anew, or undo the change"
        stopped = code == StoppedError.exit_code or self._stop_signals
        return "stopped" if stopped else "failed", f"{error}\n  log: {process.log}"

    def _stop(self, seconds_left: float) -> None:
        """Passes the stop signals on: the first at once, the second where rows in flight are given up."""
        if self._stop_signals < (1 if seconds_left else 2):
            self._stop_signals += 1
            for process, _ in self._running.values():
                process.stop()

    def _look(self) -> None:
        """Reads the progress of the jobs that run."""
        if time.monotonic() - self._looked_at < _STATUS_SECONDS:
            return
        self._looked_at = time.monotonic()
        for name in self._running:
            planned = self._plan.jobs[name]
            try:
                if (current := status_of_run(ShardStore(planned.folder), planned.verb)) is not None:
                    self._lines[name] = current.line()
            except KindlingError:  # a file may be written just now; what is wrong with it, its job says
                continue

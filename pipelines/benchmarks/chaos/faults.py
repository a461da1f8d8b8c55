"""One run whose driver, replicas and engines are killed and stopped, until the run is complete.

The model: a run is a sequence of starts. Each start is a driver process with the same command, which resumes what the
starts before it left. At drawn moments one process of a drawn role is killed (SIGKILL) or stopped (SIGSTOP, later
SIGCONT). A driver is either killed from outside like every other process, or it has a failpoint: then it kills itself
between two steps of a log or of a commit, and nobody else kills it.

Faults must not come faster than a driver can start, or no run would ever end. So where several starts in a row leave no
new row on disk, the next one is not disturbed until it does.
"""

import contextlib
import math
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipelines.benchmarks.chaos.processes import Driver, ReplicaProcesses
from pipelines.benchmarks.chaos.watch import Watcher
from schemas.errors import EXIT_DONE, EXIT_STOPPED, EXIT_USAGE, RunError
from services.storage.failpoints import COMMIT, NAMES

# Share of stops among the faults, and of long stops among the stops.
_STOP_SHARE, _LONG_STOP_SHARE = 0.2, 0.1
# A warm pool forgets a job that is silent for 20 s.
_LONG_STOP_SECONDS = 24.0
# Share of the driver's stops during which somebody starts a second driver.
_SECOND_DRIVER_SHARE = 0.5
_SECOND_DRIVER_SECONDS = 60.0
# A driver dies when it passes its failpoint for the nth time; this is the largest n.
_MAX_PASSES = 6
# Share of starts with a failpoint, as long as other kills are left too.
_FAILPOINT_SHARE = 0.5
_MAX_STARTS_WITHOUT_ROWS = 3
_MAX_FAILURES = 5
_OTHER_DRIVER = "another driver works on this run"


@dataclass(frozen=True)
class Fault:
    """One fault of a run.

    Attributes:
        kind: `kill`; `failpoint`: the driver killed itself there; `stop`: SIGSTOP, and SIGCONT after `seconds`; `second
            driver`: one that was started beside the first; `gave up` and `failure`: the driver ended by itself, with or
            without a killed replica as the reason.
        victim: driver, replica or engine; the failpoint's name where the kind is `failpoint`.
        at: seconds since the plan was made.
        detail: the outcome.
    """

    kind: str
    victim: str
    at: float
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Pace:
    """Speed of the faults.

    Attributes:
        pause_seconds: longest time between two faults.
        stop_seconds: longest time of a stop that is not a long one.
        standstill_seconds: a run without a new row for so long is a failure of the bench.
    """

    pause_seconds: float
    stop_seconds: float
    standstill_seconds: float


@dataclass
class FaultPlan:
    """The faults of several runs, one after another.

    Attributes:
        draw: source of victims, times and failpoints.
        roles: roles of the victims, each as likely: driver, replica, engine.
        other_kills: kills still to come by a signal, or by a failpoint outside a commit.
        commit_kills: kills still to come by a failpoint inside a commit.
        failpoints: names of the failpoints that a driver passes.
        store_fails: whether the runs are in an object store that fails now and then: drivers may stop because of it,
            or be kept out by a request of a dead driver that arrives late.
        faults: faults that happened.
    """

    draw: random.Random
    roles: tuple[str, ...]
    other_kills: int
    commit_kills: int
    pace: Pace
    failpoints: tuple[str, ...] = NAMES
    store_fails: bool = False
    faults: list[Fault] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def kills_left(self) -> int:
        """Kills still to come."""
        return self.other_kills + self.commit_kills

    def record(self, kind: str, victim: str, seconds: float = 0.0, detail: str = "") -> None:
        """Adds a fault that happened."""
        self.faults.append(Fault(kind, victim, round(time.monotonic() - self.began, 2), round(seconds, 2), detail))


class DisturbedRun:
    """One run with faults.

    Args:
        job_file: its job, with the address of the cluster that this process started.
        warm: whether its replicas outlive their driver.

    Attributes:
        starts: number of drivers that were started for it, without second drivers.
    """

    def __init__(
        self, job_file: Path, watcher: Watcher, plan: FaultPlan, processes: ReplicaProcesses, warm: bool
    ) -> None:
        self._job_file, self._watcher, self._plan, self._processes = job_file, watcher, plan, processes
        self._warm = warm
        self._ending: set[psutil.Process] = set()
        self._starts_without_rows = self._failures = self.starts = 0
        self._killed_replica = False

    def complete(self) -> None:
        """Starts drivers until the run is complete.

        Raises:
            RunError: no new row came for too long, or the driver failed too often by itself.
        """
        while self._start() != EXIT_DONE:
            pass

    def _start(self) -> int:
        """Runs one driver to its end, with faults; returns its exit code."""
        plan, rows = self._plan, self._watcher.look()
        self.starts += 1
        self._killed_replica = False
        driver = Driver(self._job_file, self._draw_failpoint())
        try:
            while (code := driver.wait(plan.draw.uniform(0, plan.pace.pause_seconds))) is None:
                if time.monotonic() - self._watcher.last_growth > plan.pace.standstill_seconds:
                    raise self._error("no new row for too long", driver)
                may_disturb = self._starts_without_rows < _MAX_STARTS_WITHOUT_ROWS or self._watcher.look() > rows
                if plan.other_kills and may_disturb:
                    self._disturb(driver)
        finally:
            driver.kill()
        self._record_end(driver, code)
        # Replicas of a dead driver end in a moment. A kill of one of them would count, and prove nothing.
        self._ending = set() if self._warm else set(self._processes.replicas())
        self._starts_without_rows = 0 if self._watcher.look() > rows else self._starts_without_rows + 1
        return code

    def _draw_failpoint(self) -> str:
        """Draws the failpoint of the next driver; "": none."""
        plan = self._plan
        if not plan.commit_kills or self._starts_without_rows >= _MAX_STARTS_WITHOUT_ROWS:
            return ""
        if plan.other_kills and plan.draw.random() >= _FAILPOINT_SHARE:
            return ""
        # While other kills are left, a failpoint anywhere counts; at the end only those of commits are missing.
        inside = [name for name in plan.failpoints if name in COMMIT]
        name = plan.draw.choice(plan.failpoints if plan.other_kills else inside)
        return f"{name}:{plan.draw.randint(1, _MAX_PASSES)}"

    def _disturb(self, driver: Driver) -> None:
        """Kills or stops one process of a drawn role, if there is one: a replica may not have started yet."""
        draw = self._plan.draw
        role = draw.choice(self._plan.roles)
        processes = self._processes_by_role(driver)[role]
        if not processes:
            return
        process = draw.choice(processes)
        with contextlib.suppress(psutil.NoSuchProcess):
            if draw.random() < _STOP_SHARE:
                self._stop(driver, role, process)
            else:
                self._watcher.look()  # what is on disk before the kill must be there after it
                self._kill(driver, role, process)

    def _processes_by_role(self, driver: Driver) -> dict[str, list[psutil.Process]]:
        replicas = [replica for replica in self._processes.replicas() if replica not in self._ending]
        return {
            "driver": [] if driver.failpoint else [driver.process],
            "replica": replicas,
            "engine": [process for replica in replicas for process in self._processes.engines(replica)],
        }

    def _kill(self, driver: Driver, role: str, process: psutil.Process) -> None:
        process.kill()
        if role != "driver":
            self._killed_replica = True
        elif driver.wait(math.inf) != -signal.SIGKILL:
            return  # it had ended a moment before
        self._plan.other_kills -= 1
        self._plan.record("kill", role)

    def _stop(self, driver: Driver, role: str, process: psutil.Process) -> None:
        draw, began = self._plan.draw, time.monotonic()
        is_long = draw.random() < _LONG_STOP_SHARE
        seconds = _LONG_STOP_SECONDS if is_long else draw.uniform(0, self._plan.pace.stop_seconds)
        process.suspend()
        try:
            if role == "driver" and self._holds_lease(driver) and draw.random() < _SECOND_DRIVER_SHARE:
                self._start_second_driver()
            time.sleep(max(began + seconds - time.monotonic(), 0))
        finally:
            process.resume()
        self._plan.record("stop", role, time.monotonic() - began)

    def _holds_lease(self, driver: Driver) -> bool:
        """Returns whether the driver has the lease of the run folder, so that a second driver must be refused."""
        with contextlib.suppress(OSError):
            return f"process {driver.process.pid} " in (self._watcher.run / "run.lock").read_text()
        return False

    def _start_second_driver(self) -> None:
        second = Driver(self._job_file)
        code = second.wait(_SECOND_DRIVER_SECONDS)
        second.kill()
        refused = code == EXIT_USAGE and _OTHER_DRIVER in second.last_output()
        self._plan.record("second driver", "driver", detail="refused" if refused else f"{code}: {second.error()}")

    def _record_end(self, driver: Driver, code: int) -> None:
        """Records how a driver ended, where it was not killed by a signal of ours and is not done.

        Raises:
            RunError: drivers failed too often by themselves.
        """
        if code == -signal.SIGKILL and driver.failpoint:
            name = driver.failpoint.partition(":")[0]
            if name in COMMIT:
                self._plan.commit_kills -= 1
            else:  # a signal may have been the last of these kills, after this driver was started
                self._plan.other_kills = max(self._plan.other_kills - 1, 0)
            self._plan.record("failpoint", name)
        elif code not in (EXIT_DONE, -signal.SIGKILL):
            # A driver gives up where its replicas die again and again before they serve: no fault of its own here.
            gave_up = code == EXIT_STOPPED and self._killed_replica and "before it served a row" in driver.error()
            if self._plan.store_fails:
                gave_up |= code == EXIT_STOPPED or (code == EXIT_USAGE and _OTHER_DRIVER in driver.last_output())
            self._plan.record("gave up" if gave_up else "failure", "driver", detail=f"{code}: {driver.error()}")
            self._failures += not gave_up
            if self._failures > _MAX_FAILURES:
                raise self._error("its driver keeps failing", driver)

    def _error(self, cause: str, driver: Driver) -> RunError:
        remedy = f"see the end of the driver's output:\n{driver.last_output()}"
        return RunError("bench", str(self._job_file), cause, remedy)

"""A run under fire: its driver and its replicas are killed and stopped, and the same command is given again and again
until the run is complete.

A driver either is a victim like all others, or it has a failpoint: then it kills itself between two steps of the log or
of a commit, and nobody else kills it. Where several starts in a row leave no new row on disk, the next one is let alone
until it does: faults may not outrun the time that a driver takes to start.
"""

import contextlib
import math
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipelines.benchmarks.chaos.processes import Census, Driver
from pipelines.benchmarks.chaos.watch import Watcher
from schemas.errors import EXIT_DONE, EXIT_STOPPED, EXIT_USAGE, RunError
from services.storage.failpoints import COMMIT, NAMES

# Faults that are stops, and stops that are long.
_STOP_SHARE, _LONG_STOP_SHARE = 0.2, 0.1
# A warm pool takes a job for dead after 20 s.
_LONG_STOP_SECONDS = 24.0
# Of the driver's stops: beside a driver that stands still somebody starts another.
_SECOND_DRIVER_SHARE = 0.5
_SECOND_DRIVER_SECONDS = 60.0
# At which passing of its failpoint a driver dies, at most.
_MOST_PASSINGS = 6
_ARMED_SHARE = 0.5
_MOST_BARREN_STARTS = 3
_MOST_FAILURES = 5


@dataclass(frozen=True)
class Fault:
    """What befell a run.

    Attributes:
        kind: `kill`; `failpoint`: the driver killed itself there; `stop`: SIGSTOP, and SIGCONT after `seconds`; `second
            driver`: one that was started beside the first; `gave up` and `failure`: the driver ended by itself, after
            replicas were killed or without that.
        victim: driver, replica or engine; of a failpoint its name.
        at: seconds since the fire began.
        detail: what came of it.
    """

    kind: str
    victim: str
    at: float
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Fire:
    """The faults of several runs, one after another.

    Attributes:
        draw: draws victims, times and failpoints.
        roles: of the victims, all as likely: driver, replica, engine.
        inside: kills by a failpoint of a commit that are still to come.
        outside: all others: by a signal, or by a failpoint of a log or of another file.
        pause_seconds: between two faults, at most.
        stop_seconds: of a stop that is not a long one, at most.
        standstill_seconds: a run without a new row for so long will not end.
    """

    draw: random.Random
    roles: tuple[str, ...]
    outside: int
    inside: int
    pause_seconds: float
    stop_seconds: float
    standstill_seconds: float
    faults: list[Fault] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def burns(self) -> bool:
        """Whether kills are still to come."""
        return self.outside + self.inside > 0

    def note(self, kind: str, victim: str, seconds: float = 0.0, detail: str = "") -> None:
        """Keeps a fault."""
        self.faults.append(Fault(kind, victim, round(time.monotonic() - self.began, 2), round(seconds, 2), detail))


class RunUnderFire:
    """One run.

    Args:
        job_file: its job, with the address of the cluster that this process started.
        warm: its replicas outlive their driver.
    """

    def __init__(self, job_file: Path, watcher: Watcher, fire: Fire, census: Census, warm: bool) -> None:
        self._job_file, self._watcher, self._fire, self._census, self._warm = job_file, watcher, fire, census, warm
        self._ending: set[psutil.Process] = set()
        self._barren = self._failures = self.starts = 0

    def complete(self) -> None:
        """Starts the driver until the run is complete.

        Raises:
            RunError: it will not be.
        """
        while self._start() != EXIT_DONE:
            pass

    def _start(self) -> int:
        rows = self._watcher.look()
        self.starts += 1
        self._hit = False
        driver = Driver(self._job_file, self._drawn_failpoint())
        try:
            while (code := driver.wait(self._fire.draw.uniform(0, self._fire.pause_seconds))) is None:
                if time.monotonic() - self._watcher.grew_at > self._fire.standstill_seconds:
                    raise self._hopeless("no new row for too long", driver)
                if self._fire.outside and (self._barren < _MOST_BARREN_STARTS or self._watcher.look() > rows):
                    self._strike(driver)
        finally:
            driver.kill()
        self._ended(driver, code)
        # Replicas of a dead driver end in a moment; killing them then would prove nothing.
        self._ending = set() if self._warm else set(self._census.replicas())
        self._barren = 0 if self._watcher.look() > rows else self._barren + 1
        return code

    def _drawn_failpoint(self) -> str:
        fire = self._fire
        armed = fire.inside and (not fire.outside or fire.draw.random() < _ARMED_SHARE)
        if not armed or self._barren >= _MOST_BARREN_STARTS:
            return ""
        return f"{fire.draw.choice(NAMES if fire.outside else COMMIT)}:{fire.draw.randint(1, _MOST_PASSINGS)}"

    def _strike(self, driver: Driver) -> None:
        """Kills or stops one process of a drawn role; where none is there (a replica not yet started, say) nobody."""
        draw = self._fire.draw
        victim = draw.choice(self._fire.roles)
        found = self._victims(driver)[victim]
        if not found:
            return
        process = draw.choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):
            if draw.random() < _STOP_SHARE:
                self._stop(driver, victim, process)
            else:
                self._watcher.look()
                self._kill(driver, victim, process)

    def _victims(self, driver: Driver) -> dict[str, list[psutil.Process]]:
        replicas = [each for each in self._census.replicas() if each not in self._ending]
        return {
            "driver": [] if driver.failpoint else [driver.process],
            "replica": replicas,
            "engine": [each for replica in replicas for each in self._census.engines(replica)],
        }

    def _kill(self, driver: Driver, victim: str, process: psutil.Process) -> None:
        process.kill()
        if victim != "driver":
            self._hit = True
        elif driver.wait(math.inf) != -signal.SIGKILL:
            return  # it had ended a moment before
        self._fire.outside -= 1
        self._fire.note("kill", victim)

    def _stop(self, driver: Driver, victim: str, process: psutil.Process) -> None:
        draw, began = self._fire.draw, time.monotonic()
        long = draw.random() < _LONG_STOP_SHARE
        seconds = _LONG_STOP_SECONDS if long else draw.uniform(0, self._fire.stop_seconds)
        process.suspend()
        try:
            if victim == "driver" and self._holds_run(driver) and draw.random() < _SECOND_DRIVER_SHARE:
                self._start_second_driver()
            time.sleep(max(began + seconds - time.monotonic(), 0))
        finally:
            process.resume()
        self._fire.note("stop", victim, time.monotonic() - began)

    def _holds_run(self, driver: Driver) -> bool:
        """Whether it came so far that no other driver may have the run."""
        with contextlib.suppress(OSError):
            return f"process {driver.process.pid} " in (self._watcher.run / "run.lock").read_text()
        return False

    def _start_second_driver(self) -> None:
        second = Driver(self._job_file)
        code = second.wait(_SECOND_DRIVER_SECONDS)
        second.kill()
        refused = code == EXIT_USAGE and "another driver works on this run" in second.last_words()
        self._fire.note("second driver", "driver", detail="refused" if refused else f"{code}: {second.error()}")

    def _ended(self, driver: Driver, code: int) -> None:
        if code == -signal.SIGKILL and driver.failpoint:
            name = driver.failpoint.partition(":")[0]
            if name in COMMIT:
                self._fire.inside -= 1
            else:  # the last one may have come by a signal, since this driver was started
                self._fire.outside = max(self._fire.outside - 1, 0)
            self._fire.note("failpoint", name)
        elif code not in (EXIT_DONE, -signal.SIGKILL):
            by_kills = code == EXIT_STOPPED and self._hit and "before it served a row" in driver.error()
            self._fire.note("gave up" if by_kills else "failure", "driver", detail=f"{code}: {driver.error()}")
            self._failures += not by_kills
            if self._failures > _MOST_FAILURES:
                raise self._hopeless("its driver keeps failing", driver)

    def _hopeless(self, cause: str, driver: Driver) -> RunError:
        return RunError("bench", str(self._job_file), cause, f"the driver's last words:\n{driver.last_words()}")

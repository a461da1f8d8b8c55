"""The process of one job of a study: `kindling VERB JOB`, with its job file and its log in the study's folder.

Invariant: the process gets SIGTERM when its parent dies in any way, so that no job runs on unseen; it then stops as
after any stop signal, and its finished work is kept.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from pipelines.study.plan import PlannedJob
from schemas.study import JOBS_FOLDER

_PR_SET_PDEATHSIG = 1
_MAX_TAIL_BYTES = 1 << 16
# On a cluster a training's error begins with its name.
_ERROR = re.compile(r"^(error|stopped|\S+ failed|\S+ stopped): ", re.MULTILINE)
_libc = ctypes.CDLL(None)


class JobProcess:
    """A started job.

    Args:
        planned: the job.
        study_folder: folder of the study.
        address: address of the Ray cluster; None for this machine.
        devices: numbers of the GPUs of this machine that the job may use; None to leave them as they are.
    """

    def __init__(self, planned: PlannedJob, study_folder: str, address: str | None, devices: list[str] | None) -> None:
        job_file = job_file_of(planned.name, study_folder)
        self.log = job_file.with_suffix(".log")
        env = dict(os.environ)
        if address:
            env["RAY_ADDRESS"] = address
        if devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        # A single training uses the cluster only where it is asked to.
        on_cluster = ["--address", address] if address and planned.verb == "train" else []
        command = [sys.executable, "-m", "pipelines", planned.verb, str(job_file), *on_cluster]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C reaches the study alone, which passes it on.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip

    def exit_code(self) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Sends the stop signal: the first lets rows in flight end, a second one gives them up."""
        self._process.send_signal(signal.SIGTERM)

    def error(self) -> str:
        """Returns the error that the log of this start ends with; empty where there is none."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, os.path.getsize(self.log) - _MAX_TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
        # The last of several: the error of one model, and then that of the job.
        begins = [match.start() for match in _ERROR.finditer(text)]
        return text[begins[-1] :].strip().partition("\nresume with")[0] if begins else ""


def write_job_file(planned: PlannedJob, study_folder: str) -> None:
    """Writes the complete job file of a job, by which it can also be run alone."""
    path = job_file_of(planned.name, study_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Written by `kindling reproduce`.\n#   kindling {planned.verb} {path}\n"
    path.write_text(head + yaml.safe_dump(planned.data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def job_file_of(name: str, study_folder: str) -> Path:
    """Returns the path of the job file of a job."""
    return Path(study_folder) / JOBS_FOLDER / f"{name}.yaml"


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

"""Status of a study: the state of each of its jobs, on one page."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipelines.run_folder import RECORD_NAMES
from pipelines.run_status.page import Status, progress_bar
from pipelines.run_status.status import status_of_run
from schemas.errors import KindlingError, RunError, StoreError
from schemas.study import StudyJobRecord, StudyRecord
from schemas.text import clock, plural, shorten
from services.storage.store import ShardStore


@dataclass(frozen=True)
class StudyJobStatus:
    """State of one job of a study.

    Attributes:
        name: name of the job.
        kind: verb that runs it.
        state: `waiting` where it has not begun; else the state of its run.
        line: progress of its run in one line; empty where it has not begun.
        error: why its last start did not end well; empty where it did.
        seconds: seconds that it ran, over all starts that have ended.
    """

    name: str
    kind: str
    state: str
    line: str
    error: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StudyStatus(Status):
    """Progress of a study."""

    kind: str = "reproduce"
    jobs: list[StudyJobStatus]

    @property
    def has_failed_parts(self) -> bool:
        """Returns whether a job failed."""
        return any(job.state == "failed" for job in self.jobs)

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each job."""
        return [vars(job).copy() for job in self.jobs]

    def line(self) -> str:
        """Number of jobs that are done."""
        return f"{shorten(self.name)}: {self._jobs_text()}"

    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Number of jobs that are done, and a line for each job."""
        lines = [self.line(), progress_bar(self._done(), len(self.jobs), width), ""]
        wide = max(len(job.name) for job in self.jobs)
        for job in self.jobs:
            seconds = clock(job.seconds) if job.seconds else ""
            lines.append(f"{job.name:{wide}}  {job.state:9} {seconds:>8}  {job.line or job.kind}")
            lines += [f"{'':{wide}}  {shorten(job.error.splitlines()[0], 300)}"] if job.error else []
        return lines, []

    def _done(self) -> int:
        return sum(job.state == "complete" for job in self.jobs)

    def _jobs_text(self) -> str:
        return f"a study, {self._done()} of {plural(len(self.jobs), 'job')} done, {self.state_text()}"


def read_study_record(store: ShardStore) -> StudyRecord | None:
    """Reads study.json; None where there is none.

    Raises:
        RunError: it cannot be read, or is of another version.
        StoreError: a remote file system fails.
    """
    path = store.path(RECORD_NAMES["reproduce"])
    try:
        return StudyRecord.model_validate_json(store.fs.cat_file(path))
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except OSError as error:
        raise RunError(path, None, f"cannot be read: {error.strerror or error}", "see who may read it") from None
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"it is no record of a study: {'.'.join(map(str, first['loc']))}: {first['msg']}".replace(": : ", ": ")
        raise RunError(path, None, cause, "use the version that wrote it, or move it away") from None


def study_status(store: ShardStore, may_run: bool) -> StudyStatus:
    """Status of a study, from its record and from the folder of each job.

    Args:
        may_run: whether it may run now; not used, since the folders of the jobs say it.

    Raises:
        RunError: the folder holds no record of a study, or one that cannot be read.
    """
    record = read_study_record(store)
    if record is None:
        raise RunError("STUDY", store.url, "the folder has no study.json", "name the output.path of a study")
    jobs = [_job_status(ShardStore(f"{store.url}/{job.folder}"), name, job) for name, job in record.jobs.items()]
    complete = all(job.state == "complete" for job in jobs)
    return StudyStatus(run=store.url, name=record.name, complete=complete, jobs=jobs)


def _job_status(store: ShardStore, name: str, job: StudyJobRecord) -> StudyJobStatus:
    state: str = {"done": "complete"}.get(job.state, job.state)
    line = ""
    try:
        if (current := status_of_run(store, job.kind)) is not None:
            line = current.line()
            # A job that failed before it wrote to its folder is known to the record alone.
            state = state if state in ("failed", "complete") and current.state != "running" else current.state
    except KindlingError as error:
        line = f"its folder cannot be read: {error.cause}"
    return StudyJobStatus(name, job.kind, state, line, job.error if state in ("failed", "stopped") else "", job.seconds)

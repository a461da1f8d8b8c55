"""The runs of a report, from the folders that were named: run folders, or the folder of a study with its study.json."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.corpora.rows import short_names
from pipelines.run_folder import RECORD_NAMES, kind_of
from pipelines.run_status.page import Status
from pipelines.run_status.status import STATUSES, status_of_kind
from pipelines.run_status.study import read_study_record
from schemas.errors import RunError, StoreError
from schemas.study import StudyRecord
from schemas.text import shorten
from services.storage.store import ShardStore


@dataclass(frozen=True)
class ReportRun:
    """A run of a report.

    Attributes:
        name: name of the job in its study, or the last part of its folder.
        kind: kind of its job: the name of the verb.
        record: content of its record, such as train.json.
        seconds: time that it ran by the study's record; None where no study has it.
    """

    name: str
    store: ShardStore
    kind: str
    record: dict[str, Any]
    seconds: float | None = None

    @property
    def job(self) -> dict[str, Any]:
        """The job as resolved."""
        job = self.record.get("job")
        return job if isinstance(job, dict) else {}

    @property
    def record_path(self) -> str:
        """Path of its record."""
        return self.store.path(RECORD_NAMES[self.kind])

    @cached_property
    def status(self) -> Status | None:
        """Its progress; None for a composed corpus, which appears as a whole.

        Raises:
            RunError: a file of the run is damaged.
        """
        return status_of_kind(self.store, self.kind) if self.kind in STATUSES else None


@dataclass(frozen=True)
class ReportSources:
    """Runs that a report is made from, and the record of their study.

    Attributes:
        study: record of the study; None where runs were named.
        study_folder: its folder; "" without a study.
        runs: the runs, in the order of the study or of the call.
        not_begun: state of each job of the study that has no run yet, by its name.
    """

    study: StudyRecord | None
    study_folder: str
    runs: list[ReportRun]
    not_begun: dict[str, str]

    def of_kind(self, kind: str) -> list[ReportRun]:
        """The runs of one kind."""
        return [run for run in self.runs if run.kind == kind]

    def notes(self) -> Iterator[str]:
        """Yields a line for each run that is not complete, and each job of the study that is not done."""
        for run in self.runs:
            if run.status and (not run.status.complete or run.status.has_failed_parts):
                yield f"{run.name} is not complete; what is there is shown. {run.status.line()}"
        for name, state in self.not_begun.items():
            yield f"{name}: no run is in its folder; its state is {state}"


def open_folders(folders: Sequence[str]) -> ReportSources:
    """Opens the runs that a report is made from; nothing is written.

    Raises:
        RunError: no folder is named, one holds neither a run nor a study, two hold a study, or a record is damaged.
    """
    if not folders:
        raise RunError("RUN", None, "no run is named", "name run folders, or the folder of a study")
    named = list(dict.fromkeys(folder.rstrip("/") or folder for folder in folders))
    studies = {folder: record for folder in named if (record := read_study_record(ShardStore(folder))) is not None}
    if len(studies) > 1:
        raise RunError("RUN", list(studies)[1], "a second study", "make a report of each: they answer for themselves")
    folder, study = next(iter(studies.items()), ("", None))
    plain = [name for name in named if name != folder]
    runs = [_open_run(name, url) for name, url in zip(short_names(plain), plain, strict=True)]
    not_begun = {}
    for name, job in study.jobs.items() if study else ():
        store = ShardStore(f"{folder}/{job.folder}")
        if kind_of(store) is None:
            not_begun[name] = f"{job.state}{f' ({shorten(job.error)})' if job.error else ''}"
        else:
            runs.append(_open_run(name, store.url, job.seconds))
    return ReportSources(study, folder, runs, not_begun)


def read_json(path: str, store: ShardStore, what: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: full path of the file.
        what: what the file should be, for the error.

    Raises:
        RunError: the file cannot be read, or is none.
    """
    try:
        return {**json.loads(store.fs.cat_file(path))}
    except StoreError:
        raise
    except OSError as error:
        raise RunError(path, None, f"cannot be read: {error.strerror or error}", "name a folder you may read") from None
    except (ValueError, TypeError, RecursionError):
        remedy = "restore the file, or leave this folder out of the report"
        raise RunError(path, None, f"damaged: it is not {what}", remedy) from None


def _open_run(name: str, url: str, seconds: float | None = None) -> ReportRun:
    store = ShardStore(url)
    kind = kind_of(store)
    if kind is None:
        there = "the folder holds no run and no study" if store.fs.isdir(store.root) else "there is no such folder"
        remedy = "name the output.path of jobs, or the folder of a study; `kindling runs` lists what is there"
        raise RunError("RUN", url, there, remedy)
    record = read_json(store.path(RECORD_NAMES[kind]), store, f"the record of a run of `kindling {kind}`")
    return ReportRun(name, store, kind, record, seconds)

"""The file of `kindling reproduce`: jobs that use each other's output; and the record of their folder, study.json."""

from typing import Any, Literal

from pydantic import Field, field_validator

from schemas.evaluate import Name
from schemas.job import Section
from schemas.record import Record

JOBS_FOLDER = "jobs"
"""folder in that of a study, with job file and log of each of its jobs"""
REPORT_NAMES = ("report.html", "report.md")
"""the report of a study, in its folder"""
_OWN_NAMES = ("study.json", "run.lock", JOBS_FOLDER, *REPORT_NAMES)


class StudyOutput(Section):
    """Folder of the study."""

    short_key = "path"

    path: str = Field(min_length=1)
    """a local or mounted folder; each job has the folder of its name in it"""

    @field_validator("path")
    @classmethod
    def _check_local(cls, path: str) -> str:
        if "://" in path:
            raise ValueError("a study lies in a local or mounted folder, since models are trained there")
        return path


class Rates(Section):
    """Speeds and a price, for the forecast of `--dry-run` alone. Where a job of the same kind is done, its own speed is
    taken."""

    output_tokens_per_second: float | None = Field(None, gt=0)
    """tokens that an engine writes in a second, as `kindling preview` measures them"""
    training_tokens_per_second: float | None = Field(None, gt=0)
    """tokens that a training reads in a second"""
    pairs_per_second: float | None = Field(None, gt=0)
    """minimal pairs that a model decides in a second"""
    price_per_hour: float | None = Field(None, ge=0)
    """price of the machine for an hour, in any currency"""


class Study(Section):
    """File of `kindling reproduce`: jobs in the order in which a person reads them.

    In a job, `${NAME}` stands for the folder of the job NAME, which is then run first.
    """

    name: Name
    """name of the study, in its report"""
    description: str = ""
    """one or two sentences on what is studied, at the beginning of the report"""
    jobs: dict[Name, dict[str, Any]] = Field(min_length=1)
    """each job by its name: the keys of a job file of `label`, `augment`, `compose`, `train` or `evaluate`. `base`
    names a job file, seen from the study's, whose keys it changes. `output.path` is left out: a job's folder has its
    name"""
    rates: Rates = Rates()
    """speeds and price for the forecast"""
    output: StudyOutput
    """folder of the study"""

    @field_validator("jobs")
    @classmethod
    def _check_names(cls, jobs: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in jobs if name in _OWN_NAMES]:
            raise ValueError(f"the study's folder has a file or folder `{taken[0]}` of its own: name the job otherwise")
        return jobs


class StudyJobRecord(Record):
    """Record of one job of a study."""

    kind: Literal["augment", "label", "compose", "train", "evaluate"]
    """name of the verb that runs it"""
    folder: str
    """folder of the job, relative to that of the study"""
    needs: list[str]
    """names of the jobs whose output it reads"""
    identity: str
    """digest of what decides its output: its own keys, and the identities of the jobs that it needs"""
    files: str = ""
    """digest of names, sizes and times of the files that its keys name, when it was done"""
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    """state when the record was written; the job's own folder says how far it is"""
    seconds: float = 0.0
    """seconds that it ran, over all of its starts"""
    starts: int = 0
    """number of its starts"""
    error: str = ""
    """error that ended its last start; empty where there is none"""


class StudyRecord(Record):
    """Record of a study: study.json in its folder."""

    format: int = 1
    """version of this record's layout"""
    name: str
    """name of the study"""
    description: str = ""
    """what is studied"""
    command: str
    """command that runs the study"""
    file: str
    """text of the study file"""
    created_at: str
    """time of the first start: ISO 8601, UTC"""
    versions: dict[str, str]
    """versions of Python and of packages at the last start"""
    machine: dict[str, Any]
    """processors, memory and GPUs of the machine at the last start"""
    price_per_hour: float | None = None
    """price of the machine for an hour, where the study file has one"""
    jobs: dict[str, StudyJobRecord]
    """each job by its name, in the order of the study file"""

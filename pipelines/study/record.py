"""The record of a study, study.json in its folder; and whether a job is done."""

import json
import os
from datetime import UTC, datetime
from typing import Any

import psutil

from pipelines.checking.findings import list_gpus
from pipelines.run_folder import RECORD_NAMES, kind_of, versions
from pipelines.run_status.status import status_of_run
from pipelines.study.plan import Plan, PlannedJob
from schemas.errors import KindlingError
from schemas.secrets import command_line
from schemas.study import StudyJobRecord, StudyRecord
from services.storage.store import ShardStore

_RECORD = RECORD_NAMES["reproduce"]


def write_study_record(store: ShardStore, record: StudyRecord) -> None:
    """Writes study.json, atomically."""
    store.write_text(_RECORD, json.dumps(record.model_dump(), ensure_ascii=False, indent=2) + "\n")


def new_record(plan: Plan, old: StudyRecord | None) -> StudyRecord:
    """Makes the record of a start, with what the record of an earlier start knows of its jobs."""
    jobs = {}
    for name, planned in plan.jobs.items():
        facts: dict[str, Any] = {"state": "waiting"}
        if old is not None and name in old.jobs:
            facts = old.jobs[name].model_dump(exclude={"kind", "needs"})
            facts["state"] = "stopped" if facts["state"] == "running" else facts["state"]
        facts |= {"kind": planned.verb, "folder": name, "needs": list(planned.needs)}
        jobs[name] = StudyJobRecord(**{"identity": planned.identity, **facts})
    return StudyRecord(
        name=plan.study.name,
        description=plan.study.description,
        command=command_line(),
        file=plan.text,
        created_at=old.created_at if old else datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions("trl", "datasets", "lm-eval"),
        machine={"cpus": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total, "gpus": list_gpus()},
        price_per_hour=plan.study.rates.price_per_hour,
        jobs=jobs,
    )


def is_done(planned: PlannedJob, record: StudyJobRecord) -> bool:
    """Returns whether a job needs no start: it was done, as the same job on the same files, and its folder is whole."""
    return (
        record.state == "done"
        and record.identity == planned.identity
        and is_complete(planned)
        and record.files == planned.files_digest()
    )


def is_complete(planned: PlannedJob) -> bool:
    """Returns whether the folder of a job holds its complete output."""
    store = ShardStore(planned.folder)
    try:
        if planned.verb == "compose":  # a corpus appears as a whole
            return kind_of(store) == planned.verb
        current = status_of_run(store, planned.verb)
        return current is not None and current.state == "complete"
    except KindlingError:  # its verb says what is wrong with the folder
        return False

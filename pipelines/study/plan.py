"""Reads a study file: its jobs in an order in which they can run, and what identifies each."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.jobfile import complete_job, load_job, parse_any_job
from schemas.errors import JobError
from schemas.fingerprint import fingerprint, identity_of
from schemas.study import Study

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
# Files of one job whose sizes and times are looked at.
_MAX_FILES = 50_000


@dataclass(frozen=True)
class PlannedJob:
    """A job of a study, ready to run.

    Attributes:
        name: its name in the study.
        verb: verb that runs it.
        job: the validated job.
        data: the same as plain values, for its job file.
        needs: names of the jobs whose folders its keys name.
        identity: digest of what decides its output: its own keys, and the identities of the jobs that it needs.
        folder: folder of its output.
    """

    name: str
    verb: str
    job: Any
    data: dict[str, Any]
    needs: tuple[str, ...]
    identity: str
    folder: str

    def files_digest(self) -> str:
        """Returns a digest of names, sizes and times of the local files that the keys of the job name."""
        files = (
            f"{path}\0{entry.st_size}\0{entry.st_mtime_ns}\n"
            for text in _texts_in({key: value for key, value in self.data.items() if key != "output"})
            for path, entry in _files_at(text)
        )
        return hashlib.blake2b("".join(sorted(islice(files, _MAX_FILES))).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Plan:
    """A study file as it was read.

    Attributes:
        jobs: the jobs by name; each comes after the jobs that it needs, else in the order of the file.
        text: text of the study file.
    """

    study: Study
    jobs: dict[str, PlannedJob]
    text: str

    def chosen(self, only: list[str], start: str | None) -> list[str]:
        """Returns the names of the jobs to run, in their order.

        Args:
            only: names of these jobs alone; all where it is empty.
            start: name of a job: it and those that need it, directly or through others; None for all.

        Raises:
            JobError: the study has no job of such a name.
        """
        for option, name in [("--only", name) for name in only] + ([("--from", start)] if start else []):
            if name not in self.jobs:
                raise JobError(option, name, "the study has no such job", f"name one of {', '.join(self.jobs)}")
        chosen = set(only or self.jobs)
        if start:
            after = {start}
            for job in self.jobs.values():
                if after.intersection(job.needs):
                    after.add(job.name)
            chosen &= after
        return [name for name in self.jobs if name in chosen]


def read_plan(path: str, overrides: list[str] | None = None) -> Plan:
    """Reads a study file, and validates every job of it.

    Raises:
        JobError: the file or one of its jobs has a fault; a reference names no job; or jobs need each other in a
            circle.
    """
    study = load_job(path, overrides, Study)
    folder = os.path.expanduser(study.output.path)
    complete = {name: _in(name, partial(complete_job, data, path)) for name, data in study.jobs.items()}
    needs = {name: _needs(name, data, list(complete)) for name, data in complete.items()}
    jobs: dict[str, PlannedJob] = {}
    for name in _ordered(needs):
        needed = {other: jobs[other].identity for other in needs[name]}
        data = _resolved(
            _with_output(name, complete[name], study, folder), {other: jobs[other].folder for other in needs[name]}
        )
        verb, job = _in(name, partial(parse_any_job, data))
        if verb == "reproduce":
            raise JobError(f"jobs.{name}.jobs", None, "a study inside a study", "write its jobs into this file")
        identity = fingerprint(identity_of(complete[name], needs=needed))
        jobs[name] = PlannedJob(name, verb, job, data, needs[name], identity, data["output"]["path"])
    return Plan(study, jobs, Path(path).read_text(encoding="utf-8"))


def _in(name: str, read: Callable[[], Any]) -> Any:
    """Returns what `read` returns; its error names the job."""
    try:
        return read()
    except JobError as error:
        raise JobError(f"jobs.{name}.{error.key}", error.value, error.cause, error.remedy) from None


def _with_output(name: str, data: dict[str, Any], study: Study, folder: str) -> dict[str, Any]:
    """Returns the keys of a job with its name, and its folder as output.

    Raises:
        JobError: the study file gives the job a folder.
    """
    own = study.jobs[name].get("output")
    if own is not None and (not isinstance(own, dict) or "path" in own):
        raise JobError(f"jobs.{name}.output.path", None, "a job of a study lies in the study's folder", "leave it out")
    output = data.get("output")
    others = output if isinstance(output, dict) else {}
    return {**data, "name": f"{study.name}-{name}", "output": {**others, "path": os.path.join(folder, name)}}


def _needs(name: str, data: dict[str, Any], names: list[str]) -> tuple[str, ...]:
    needed: dict[str, None] = {}
    for text in _texts_in(data):
        for other in _REFERENCE.findall(text):
            if other not in names or other == name:
                cause = "it names no other job of the study"
                remedy = f"name one of {', '.join(names)}; a prompt that has such a text belongs into a file of its own"
                raise JobError(f"jobs.{name}", f"${{{other}}}", cause, remedy)
            needed[other] = None
    return tuple(needed)


def _ordered(needs: dict[str, tuple[str, ...]]) -> list[str]:
    """Returns the names so that each comes after those that it needs, else in their order.

    Raises:
        JobError: some need each other in a circle.
    """
    order: list[str] = []
    while len(order) < len(needs):
        ready = next((name for name in needs if name not in order and set(needs[name]) <= set(order)), None)
        if ready is None:
            circle = [name for name in needs if name not in order]
            cause = "these jobs wait for each other: each needs the output of another one"
            raise JobError("jobs", ", ".join(circle), cause, "take a reference ${NAME} out of one of them")
        order.append(ready)
    return order


def _resolved(value: Any, folders: dict[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: folders[match[1]], value)
    if isinstance(value, dict):
        return {key: _resolved(inner, folders) for key, inner in value.items()}
    return [_resolved(inner, folders) for inner in value] if isinstance(value, list) else value


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)


def _files_at(text: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the files that a text names as a path or a glob; none for a text that is something else."""
    path = os.path.expanduser(text)
    try:
        places = glob(path, recursive=True) if has_magic(path) else [path] if os.path.lexists(path) else []
        for place in places:
            if os.path.isdir(place):
                for parent, _, names in os.walk(place):
                    yield from ((file := os.path.join(parent, name), os.stat(file)) for name in names)
            else:
                yield place, os.stat(place)
    except (OSError, ValueError, re.error):  # a text of any kind: a prompt is no path; and a file may be gone meanwhile
        return

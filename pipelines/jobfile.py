"""Reads a job file (YAML) with its `--set key=value` overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import JobError
from schemas.job import AugmentJob, parse_job


def load_job(path: str, overrides: list[str] | None = None) -> AugmentJob:
    """A validated job.

    Args:
        path: the YAML file.
        overrides: `key.of.section=value`, each value read as YAML.

    Raises:
        JobError: the file cannot be read, is no YAML, or does not fit the schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise JobError("JOB", path, error.strerror or str(error), "name a job file; see deploy/jobs/") from None
    except UnicodeDecodeError:
        raise JobError("JOB", path, "the file is not UTF-8 text", "name a job file; see deploy/jobs/") from None
    data = _yaml(text, path)
    if isinstance(data, dict):  # parse_job refuses anything else
        for override in overrides or []:
            _apply(data, override)
    return parse_job(data)


def as_job(job: AugmentJob | Mapping[str, Any] | str | Path) -> AugmentJob:
    """A validated job from whatever a caller has: a job, the same as a dict, or the path of a job file."""
    if isinstance(job, AugmentJob):
        return job
    return load_job(str(job)) if isinstance(job, str | Path) else parse_job(dict(job))


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        cause = f"not valid YAML{place}: {getattr(error, 'problem', None) or error}"
        raise JobError("JOB", where, cause, "correct the file; see deploy/jobs/") from None


def _apply(data: Any, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise JobError("--set", override, "not of the form key.of.section=value", "as --set sampling.temperature=0.7")
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(data, dict):
            break
        data = data.setdefault(section, {})
    if not isinstance(data, dict):
        raise JobError(
            "--set", override, f"`{'.'.join(sections)}` is a value, not a section", "name a key of a section"
        )
    data[last] = _yaml(value, f"--set {override}")

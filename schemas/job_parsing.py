"""Validation of job files, for all verbs: an unknown key is refused, and the error names the key that was meant."""

import difflib
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from schemas.errors import JobError
from schemas.job import SECRET_FAULT, Section

NAMES_ELSEWHERE = {
    "sep": "delimiter", "data_files": "path", "file": "path", "files": "path", "select": "limit", "max_rows": "limit",
    "rename_columns": "columns", "keep_columns": "keep", "model": "id", "model_id": "id", "model_name": "id",
    "model_name_or_path": "id", "max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens",
    "n": "samples", "num_return_sequences": "samples", "prompt_template": "prompt", "template": "prompt",
    "output_dir": "path", "output_path": "output", "input_path": "input", "num_train_epochs": "epochs",
    "concurrency": "replicas", "num_replicas": "replicas", "num_gpus": "gpus_per_replica", "tasks": "evaluations",
}  # fmt: skip
"""names that keys have in transformers, datasets, pandas, OpenAI's API and vLLM's command line -> their names here"""
_SECRET_REMEDY = (
    "set it in the environment, as AWS_SECRET_ACCESS_KEY or HF_TOKEN are; for input files also in "
    "input.storage_options (https: `{headers: {Authorization: ...}}`); or download the file"
)
Job = TypeVar("Job", bound=Section)


def parse_job(data: Any, job_class: type[Job]) -> Job:
    """Validates a job as read from YAML.

    Args:
        data: content of the job file, with `base` and overrides already applied.
        job_class: schema of the expected kind of job.

    Raises:
        JobError: a key is unknown or missing, or its value is refused. Only the first fault is reported.
    """
    if not isinstance(data, dict):
        raise JobError("job file", type(data).__name__, "the top level must be keys and values", "see deploy/jobs/")
    try:
        return job_class.model_validate(data)
    except ValidationError as error:
        raise _job_error(error, job_class) from None


def _job_error(error: ValidationError, job_class: type[Section]) -> JobError:
    # A secret comes first, since any other error would show it. An unknown key comes before a missing one, since a
    # misspelled key is both.
    details = sorted(error.errors(), key=lambda e: (e["type"] != SECRET_FAULT, e["type"] != "extra_forbidden"))
    first = details[0]
    # A whole section may hold a secret, and an error is written to logs.
    value = None if isinstance(first["input"], dict) or "storage_options" in first["loc"] else first["input"]
    path, section = _key_path(first["loc"], job_class)
    if first["type"] == "extra_forbidden":
        # The value of an unknown key is not shown: it may be a secret.
        return JobError(".".join(map(str, path)), None, "unknown key", _known_keys(path, section))
    key = ".".join(str(part) for part in path if not _is_union_tag(part)) or "job file"
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        tag, field = first["ctx"].get("tag"), next(part for part in reversed(path) if part in section.model_fields)
        kinds = ", ".join(kind_key(option) for option in sections_in(section.model_fields[field].annotation))
        return JobError(f"{key}.kind", tag, "no such kind" if tag else "this key is missing", f"give one of {kinds}")
    if first["type"] == "missing":
        return JobError(key, None, "this key is required and missing", f"add `{key}` to the job file")
    if first["type"] == SECRET_FAULT:
        return JobError(key, None, first["msg"], _SECRET_REMEDY)
    return JobError(key, value, first["msg"].removeprefix("Value error, "), "correct the value in the job file")


def _is_union_tag(part: int | str) -> bool:
    # Pydantic puts the tried type of a union (`str`, `list[str]`) into an error's path. No key looks like it.
    return isinstance(part, str) and (
        part in {"str", "int", "float", "constrained-str", "constrained-int", "constrained-float"} or "[" in part
    )


def _key_path(loc: tuple[int | str, ...], job_class: type[Section]) -> tuple[list[int | str], type[Section]]:
    """Returns the path of an error as the job file has it, and the section that holds the path's last key.

    Args:
        loc: pydantic's path of the error. Where a section has several kinds, pydantic adds its `kind` to the path.
        job_class: schema of the whole job.
    """
    path, section, keys = [], job_class, iter(loc)
    for key in keys:
        path.append(key)
        if key not in section.model_fields:
            break
        annotation = section.model_fields[key].annotation
        sections = sections_in(annotation)
        if get_origin(annotation) in (dict, list):  # sections under names that the job chooses, or under numbers
            path += [name for name in [next(keys, None)] if name is not None]
        if len(sections) > 1:
            tag = next(keys, None)
            sections = [option for option in sections if kind_key(option) == tag]
        if not sections:
            break
        (section,) = sections
    return [*path, *keys], section


def _known_keys(path: list[int | str], section: type[Section]) -> str:
    known = list(section.model_fields)
    prefix = "".join(f"{part}." for part in path[:-1])
    synonym = NAMES_ELSEWHERE.get(str(path[-1]))
    if synonym in known:
        return f"it is called `{prefix}{synonym}` here"
    close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{prefix}{close[0]}`?"
    return f"the keys here are {', '.join(known)}"


def sections_in(annotation: Any) -> list[type[Section]]:
    """Returns the sections that a key of this type may hold, at any depth: one, an optional one, or one of several."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in sections_in(inner)]


def kind_key(section: type[Section]) -> str:
    """Returns the value of `kind` that selects this section; "" where it has no such key."""
    field = section.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""

"""Reads a job file (YAML) with its `--set key=value` overrides.

A job file may come from a stranger, so its size, its number of values and its nesting are bounded before it is built.
"""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, overload

import yaml
from yaml.composer import ComposerError

from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job_parsing import Job, parse_job
from schemas.secrets import without_secret
from schemas.text import shorten

_MAX_BYTES = 256 << 10
# An alias counts as all the values that it repeats: a small file can stand for billions of them.
_MAX_VALUES = 10_000
_MAX_NESTING = 32
_MAX_BASES = 4
# Endings of data files, which no job file has; a job file may end with .json or .txt.
_DATA_ENDINGS = (
    ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq", ".arrow", ".feather", ".gz", ".bz2", ".xz", ".zst", ".zip",
    ".xlsx", ".xls", ".ods",
)  # fmt: skip
# Values of `--set` that are text though YAML reserves these characters: a delimiter of a CSV file is such a one.
_RESERVED = (",", "|", ">", ":", "=", "@", "%", "`", "\t")
VERB_OF_KEY = {
    "recipe": "augment",
    "stages": "train",
    "evaluations": "evaluate",
    "parts": "compose",
    "threshold": "label",
    "segmentation": "label",
    "jobs": "reproduce",
}
"""the verb of a job file that has a key which only jobs of that verb have"""
# Imported when a job of that kind is read: each takes a tenth of a second.
SCHEMAS = {
    "augment": "schemas.augment:AugmentJob",
    "label": "schemas.label:LabelJob",
    "compose": "schemas.compose:ComposeJob",
    "train": "schemas.train:TrainJob",
    "evaluate": "schemas.evaluate:EvaluateJob",
    "reproduce": "schemas.study:Study",
}
"""module and class of the schema of each verb's job files"""


@overload
def load_job(path: str, overrides: list[str] | None = None) -> AugmentJob: ...


@overload
def load_job(path: str, overrides: list[str] | None, kind: type[Job]) -> Job: ...


@overload
def load_job(path: str, *, kind: type[Job]) -> Job: ...


def load_job(path: str, overrides: list[str] | None = None, kind: type[Any] = AugmentJob) -> Any:
    """Reads, merges and validates a job.

    Args:
        path: the YAML file. Its key `base`, where it has one, names a file beside it; the keys of the file itself
            replace those of its base, which may have a base as well.
        overrides: `key.of.section=value`, each value read as YAML.
        kind: class of the job, such as `TrainJob`.

    Raises:
        JobError: the file cannot be read, is no YAML, or does not fit the schema.
    """
    return parse_job(_read_job(path, overrides), kind)


def load_any_job(path: str, overrides: list[str] | None = None) -> tuple[str, Any]:
    """Reads, merges and validates a job of any kind.

    Returns:
        (verb that runs it, job).

    Raises:
        JobError: the file cannot be read, is no YAML, or does not fit the schema of its kind.
    """
    return parse_any_job(_read_job(path, overrides))


def complete_job(data: dict[str, Any], path: str) -> dict[str, Any]:
    """Merges a job that stands inside another file with its `base`, which names a file seen from that one.

    Raises:
        JobError: the base cannot be read, or holds a value that no job can have.
    """
    data = _merged_with_base(data, path)
    _check(data, "")
    return data


def parse_any_job(data: dict[str, Any]) -> tuple[str, Any]:
    """Validates a job of any kind, with its base and overrides already applied; the same as `load_any_job` otherwise.

    Raises:
        JobError: the job does not fit the schema of its kind.
    """
    keys = data.keys() if isinstance(data, dict) else set()
    verb = next((verb for key, verb in VERB_OF_KEY.items() if key in keys), "")
    verb = verb or ("label" if keys and keys <= resolve_name(SCHEMAS["label"]).model_fields.keys() else "augment")
    return verb, parse_job(data, resolve_name(SCHEMAS[verb]))


def _read_job(path: str, overrides: list[str] | None) -> Any:
    data = _merged_with_base(_parsed(_read(path), path), path)
    if isinstance(data, dict):  # parse_job refuses anything else
        for override in overrides or []:
            _apply(data, override)
    _check(data, "")
    return data


@overload
def as_job(job: AugmentJob | Mapping[str, Any] | str | Path) -> AugmentJob: ...


@overload
def as_job(job: Job | Mapping[str, Any] | str | Path, kind: type[Job]) -> Job: ...


def as_job(job: Any, kind: type[Any] = AugmentJob) -> Any:
    """Returns a validated job, given a job, the same as a dict, or the path of a job file."""
    if isinstance(job, kind):
        return job
    return load_job(str(job), kind=kind) if isinstance(job, str | Path) else parse_job(dict(job), kind)


def _merged_with_base(data: Any, path: str) -> Any:
    for _ in range(_MAX_BASES):
        if not isinstance(data, dict) or "base" not in data:
            return data
        changes = {key: value for key, value in data.items() if key != "base"}
        base, remedy = data["base"], "name a job file beside this one"
        if not isinstance(base, str):
            raise JobError("base", base, "not the name of a file", remedy)
        path = str(Path(path).parent / base)
        base_data = _parsed(_read(path), path)
        if not isinstance(base_data, dict):
            raise JobError("base", path, "the top level must be keys and values", remedy)
        data = _merged(base_data, changes)
    cause = f"more than {_MAX_BASES} files are each the base of the next"
    raise JobError("base", data["base"], cause, "let a job file have a base that has none")


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merges sections key by key; any other value, also a list, replaces the value of the base."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _read(path: str) -> str:
    remedy = "name a job file; see deploy/jobs/"
    try:
        with Path(path).open("rb") as file:
            if path.lower().endswith(_DATA_ENDINGS):
                remedy = f"make a job file of it: kindling init {shlex.quote(path)}"
                raise JobError("JOB", path, "it is data, not a job file", remedy)
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise JobError("JOB", path, f"the file is larger than {_MAX_BYTES >> 10} KiB", remedy)
        return data.decode("utf-8")
    except OSError as error:
        raise JobError("JOB", path, error.strerror or str(error), remedy) from None
    except UnicodeDecodeError:
        raise JobError("JOB", path, "the file is not UTF-8 text", "save it as UTF-8") from None


def _parsed(text: str, source: str) -> Any:
    try:
        return _without_aliases(load_yaml(text))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        cause = f"not valid YAML{place}: {shorten(str(getattr(error, 'problem', None) or error))}"
        raise JobError("JOB", source, cause, "correct the file; see deploy/jobs/") from None


def _without_aliases(value: Any) -> Any:
    """Copies lists and mappings that YAML's aliases repeat, so that an override of one changes no other."""
    if isinstance(value, dict):
        return {key: _without_aliases(inner) for key, inner in value.items()}
    return [_without_aliases(inner) for inner in value] if isinstance(value, list) else value


def _apply(data: Any, override: str) -> None:
    key, equals, value = override.partition("=")
    shown = without_secret(override)
    if not equals or not key:
        raise JobError("--set", shown, "not of the form key.of.section=value", "as --set sampling.temperature=0.7")
    *sections, last = key.split(".")
    for section in sections:
        if isinstance(data, list) and section.isdecimal() and int(section) < len(data):
            data = data[int(section)]
        elif isinstance(data, dict):
            data = data.setdefault(section, {})
        else:
            break
    if not isinstance(data, dict):
        remedy = (
            "name a key of a section, or set the value itself: `--set output=PATH` where the file has `output: PATH`"
        )
        raise JobError("--set", shown, f"`{'.'.join(sections)}` is a value, not a section", remedy)
    try:
        data[last] = value if value in _RESERVED else load_yaml(value)
    except (yaml.YAMLError, ValueError) as error:
        cause = f"the value is not valid YAML: {shorten(str(getattr(error, 'problem', None) or error))}"
        raise JobError("--set", shown, cause, f"if it is text, quote it twice: --set '{key}=\"VALUE\"'") from None


def _check(value: Any, key: str) -> None:
    """Refuses values that JSON cannot hold, since run.json keeps the job; the schema does not check inside `engine`."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check(str(name), key or "job file")
            _check(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check(item, f"{key}.{number}")
    elif fault := _fault(value):
        shown = None if "storage_options" in key else value
        raise JobError(key or "job file", shown, fault, "correct the value in the job file")


def _fault(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    if isinstance(value, int) and value.bit_length() > 63:
        return "a number of more than 64 bits"
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= character <= "\udfff" for character in value)):
        return "it holds a character that no file name and no text can have"
    if value is not None and not isinstance(value, bool | int | float | str):
        return f"a {type(value).__name__}, for which no key has a use; in quotes it is text"
    return ""


def load_yaml(text: str) -> Any:
    """Reads a YAML text of one document.

    Raises:
        yaml.YAMLError: the text is no YAML, repeats a key, or has too many values or too deep a nesting.
        ValueError: Python cannot hold a value, such as the date 2024-13-01.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    """Reads YAML within the bounds above, and refuses repeated keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._values_in: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Counts the values of each node; an alias counts as all the values that it repeats."""
        event = self.peek_event()
        mark: Any = event.start_mark
        before = self._values
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise ComposerError(None, None, f"nested more than {_MAX_NESTING} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._values_in[id(node)] = self._values - before
        elif id(node) not in self._values_in:
            raise ComposerError(None, None, "an alias inside its own value", mark)
        else:
            self._values += self._values_in[id(node)]
        if self._values > _MAX_VALUES:
            raise ComposerError(None, None, f"more than {_MAX_VALUES:,} values", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuses a repeated key, of which YAML would keep the last value in silence."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                mark: Any = key.start_mark
                raise ComposerError(None, None, f"the key {key.value[:80]!r} is repeated", mark)
            seen.add((key.tag, key.value))
        return node

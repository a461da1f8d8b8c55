"""Reads a job file (YAML) with its `--set key=value` overrides."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job import Job, parse_job
from schemas.text import shorten

_MOST_BYTES = 256 << 10


_MOST_VALUES = 10_000
_DEEPEST = 32


def load_job(path: str, overrides: list[str] | None = None, kind: type[Job] = AugmentJob) -> Job:
    """A validated job.

    Args:
        path: the YAML file. Its key `base`, where it has one, names another beside it, over which its own keys go.
        overrides: `key.of.section=value`, each value read as YAML.
        kind: what it must be.

    Raises:
        JobError: the file cannot be read, is no YAML, or does not fit the schema.
    """
    data = _on_its_base(_yaml(_read(path), path), path)
    if isinstance(data, dict):  # parse_job refuses anything else
        for override in overrides or []:
            _apply(data, override)
    _check(data, "")
    return parse_job(data, kind)


def as_job(job: Job | Mapping[str, Any] | str | Path, kind: type[Job] = AugmentJob) -> Job:
    """A validated job from whatever a caller has: a job, the same as a dict, or the path of a job file."""
    if isinstance(job, kind):
        return job
    return load_job(str(job), kind=kind) if isinstance(job, str | Path) else parse_job(dict(job), kind)


def without_secret(override: str) -> str:
    """`key.of.section=value` to be shown: what a file system needs may be a secret, and logs are read by many."""
    key, equals, _ = override.partition("=")
    return f"{key}=..." if equals and "storage_options" in key else override


def _on_its_base(data: Any, path: str) -> Any:
    if not isinstance(data, dict) or "base" not in data:
        return data
    base = data.pop("base")
    if not isinstance(base, str):
        raise JobError("base", base, "not the name of a file", "name a job file beside this one")
    where = str(Path(path).parent / base)
    below = _yaml(_read(where), where)
    if not isinstance(below, dict):
        raise JobError("base", where, "the top level must be keys and values", "name a job file beside this one")
    return _laid_over(below, data)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are laid over each other key by key; any other value, a list too, takes the place of the one below."""
    both = dict(below)
    for key, value in above.items():
        inner = both.get(key)
        both[key] = _laid_over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


def _read(path: str) -> str:
    remedy = "name a job file; see deploy/jobs/"
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise JobError("JOB", path, f"the file is larger than {_MOST_BYTES >> 10} KiB", remedy)
        return data.decode("utf-8")
    except OSError as error:
        raise JobError("JOB", path, error.strerror or str(error), remedy) from None
    except UnicodeDecodeError:
        raise JobError("JOB", path, "the file is not UTF-8 text", remedy) from None


def _yaml(text: str, where: str) -> Any:
    try:
        return load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        cause = f"not valid YAML{place}: {shorten(str(getattr(error, 'problem', None) or error))}"
        raise JobError("JOB", where, cause, "correct the file; see deploy/jobs/") from None


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
        raise JobError("--set", shown, f"`{'.'.join(sections)}` is a value, not a section", "name a key of a section")
    data[last] = _yaml(value, f"--set {shown}")


def _check(value: Any, key: str) -> None:
    """Refuses what JSON, and with it run.json, cannot hold; the schema cannot see into `engine`."""
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
    """The one document of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or goes beyond these bounds.
        ValueError: a value that Python cannot hold, such as a date that no calendar has.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._values_in: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Counts the values of each node; an alias counts as all that it stands for."""
        event, before = self.peek_event(), self._values
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ComposerError(None, None, f"nested more than {_DEEPEST} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._values_in[id(node)] = self._values - before
        elif id(node) not in self._values_in:
            raise ComposerError(None, None, "an alias of what it stands in", event.start_mark)
        else:
            self._values += self._values_in[id(node)]
        if self._values > _MOST_VALUES:
            raise ComposerError(None, None, f"more than {_MOST_VALUES:,} values", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Refuses a key that is there twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise ComposerError(None, None, f"the key {key.value[:80]!r} is there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node

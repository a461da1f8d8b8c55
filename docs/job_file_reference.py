"""Writes the reference of all job files into docs/job-file.md, from the schemas and the strings below their keys.

    .venv/bin/python -m docs.job_file_reference

tests/project/test_docs.py fails where the page is older than the schemas.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from schemas.augment import AugmentJob
from schemas.compose import ComposeJob
from schemas.evaluate import EvaluateJob
from schemas.job import Section
from schemas.job_parsing import kind_key, sections_in
from schemas.label import LabelJob
from schemas.study import Study
from schemas.train import TrainJob

COMMAND = ".venv/bin/python -m docs.job_file_reference"
PAGE = Path(__file__).parent / "job-file.md"
BEGIN = f"<!-- reference: written by {COMMAND}; do not edit it here -->"
END = "<!-- end of the reference -->"
JOBS: dict[str, type[Section]] = {
    "augment": AugmentJob,
    "label": LabelJob,
    "compose": ComposeJob,
    "train": TrainJob,
    "evaluate": EvaluateJob,
    "reproduce": Study,
}

# Name of each type, alone and after "list of".
_TYPES = {
    str: ("text", "texts"),
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    bool: ("`true` or `false`", "`true` or `false`"),
    Any: ("value", "values"),
}
# Part of a path below a key that holds several sections.
_STEPS: dict[Any, str] = {dict: ".NAME", list: ".N"}
_HEAD = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]


@dataclass(frozen=True)
class Place:
    """Place of a section in the job files.

    Attributes:
        path: keys from the top of the job file, where N is a number and NAME a name that the job chooses.
        job: job that has the section; "" where several have it.
        kind: value of the section's key `kind`; "" where it has none.
    """

    path: str
    job: str
    kind: str

    @property
    def heading(self) -> str:
        """Heading of the section's table."""
        job = f" of `{self.job}`" if self.job else ""
        return f"Section `{self.path}`{job}" + (f", kind `{self.kind}`" if self.kind else "")

    @property
    def link(self) -> str:
        """Link to the heading."""
        return f"[`{self.kind or self.path}`](#{anchor(self.heading)})"


def reference() -> str:
    """Returns the reference: one table for each job, for each of its sections, and for each section of several jobs."""
    places = section_places()
    lines = []
    for job, schema in JOBS.items():
        lines += ["", f"### The job file of `{job}`", "", *_table(schema, places)]
        for section, place in places.items():
            if place.job == job:
                lines += ["", f"#### {place.heading}", "", *_table(section, places)]
    lines += ["", "### Sections that several job files have"]
    for section, place in places.items():
        if not place.job:
            lines += ["", f"#### {place.heading}", "", *_table(section, places)]
    return "\n".join(lines[1:])


def section_places() -> dict[type[Section], Place]:
    """Returns the place of each section, in the order of the job files' keys."""
    jobs: dict[type[Section], list[str]] = {}
    paths: dict[type[Section], str] = {}
    for job, schema in JOBS.items():
        for path, section in _walk(schema):
            jobs.setdefault(section, []).append(job)
            paths.setdefault(section, path)
    return {
        section: Place(path, jobs[section][0] if len(set(jobs[section])) == 1 else "", kind_key(section))
        for section, path in paths.items()
    }


def insert(page: str, text: str) -> str:
    """Returns the page with `text` between its two markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the two lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def anchor(heading: str) -> str:
    """Returns the name under which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _walk(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    for key, field in schema.model_fields.items():
        step = _STEPS.get(get_origin(field.annotation), "")
        for section in sections_in(field.annotation):
            path = f"{prefix}{key}{step}"
            yield path, section
            yield from _walk(section, f"{path}.")


def _table(schema: type[Section], places: dict[type[Section], Place]) -> list[str]:
    meaning = " ".join((schema.__doc__ or "").split())
    # The key `kind` comes first: it says which other keys there are.
    fields = sorted(schema.model_fields.items(), key=lambda item: item[0] != "kind")
    return [meaning, "", *_HEAD, *(_row(key, field, places) for key, field in fields)]


def _row(key: str, field: FieldInfo, places: dict[type[Section], Place]) -> str:
    if not field.description:
        raise ValueError(f"the key {key} needs a string below it, which says what it means")
    cells = (f"`{key}`", _type(field, places), _default(field), " ".join(field.description.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: FieldInfo, places: dict[type[Section], Place]) -> str:
    # Null is a value of its own where it is not the default; else it only says that the key may be left out.
    null = NoneType in get_args(field.annotation) and _default_of(field) is not None
    return _words(field.annotation, places) + _bounds(field.metadata) + (" or `null`" if null else "")


def _words(annotation: Any, places: dict[type[Section], Place], plural: bool = False) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _TYPES:
        return _TYPES[annotation][plural]
    if annotation in places:
        return f"section{'s' * plural} {places[annotation].link}"
    if origin is Annotated:
        return _words(inner[0], places, plural) + _bounds(inner[1:])
    if origin is Literal:
        return _either([f"`{value}`" for value in inner])
    if origin is list:
        return f"list{'s' * plural} of {_words(inner[0], places, plural=True)}"
    if origin is dict:
        keys = _words(inner[0], places, plural=True)
        names = "" if keys.startswith("text") else f" of {keys}"
        one = get_origin(inner[0]) is Literal
        values = "" if inner[1] is Any else f" to {_words(inner[1], places, plural=not one)}"
        return f"map{'s' * plural}{names or (' of names' if values else '')}{values}"
    if origin in (Union, UnionType):
        options = [option for option in inner if option is not NoneType]
        if all(option in places for option in options):
            return f"section{'s' * plural} {_either([places[option].link for option in options])}"
        return _either([_words(option, places, plural) for option in options])
    raise TypeError(f"no words for the type {annotation}")


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _bounds(metadata: Any) -> str:
    metadata = [bound for item in metadata for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]
    names = ("gt", "ge", "lt", "le")
    bounds = {name: f"{getattr(item, name):,.10g}" for item in metadata for name in names if hasattr(item, name)}
    if bounds.keys() == {"ge", "le"}:
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "at most"}
    limits = " and ".join(f"{words[name]} {bound}" for name, bound in bounds.items())
    return limits and f" {limits}"


def _default_of(field: FieldInfo) -> Any:
    # The factories of keys whose default depends on other keys get no other key here.
    return field.get_default(call_default_factory=True, validated_data={})


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = _default_of(field)
    if not isinstance(value, Section):
        return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"
    changed = {key: item for key, item in value if item != _default_of(type(value).model_fields[key])}
    return f"`{json.dumps(changed)}`" if changed else "its defaults"


if __name__ == "__main__":
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), reference()), encoding="utf-8")
    print(f"wrote the reference into {PAGE}")

"""Which files an input names: a file, a folder, a glob, or a list of them, on any file system."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec

from pipelines.inputs.formats import suffix_of
from schemas.errors import JobError
from schemas.job import Input
from services.storage.filesystem import is_local, resolve

_FORMAT_OF_SUFFIX = {
    ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "csv",
    ".txt": "text", ".text": "text",
    ".train": "text",  # BabyLM's files
}  # fmt: skip


@dataclass(frozen=True)
class InputFile:
    """One file of the input: a name for people and run.json, where it lies, and its format."""

    name: str
    fs: fsspec.AbstractFileSystem
    path: str
    format: str


def input_files(section: Input) -> list[InputFile]:
    """The files of an input, in its order and sorted within a folder or glob, each once.

    Raises:
        JobError: nothing is there, a format cannot be told, or a link leads out of its folder.
    """
    patterns = [section.path] if isinstance(section.path, str) else section.path or []
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        fs, path = resolve(pattern, "input.path", section.storage_options)
        for match in _matches(fs, path, pattern):
            name = _name(fs, match, pattern)
            found[name] = InputFile(name, fs, match, _format(match, section))
    return list(found.values())


def _matches(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> list[str]:
    local = is_local(fs)
    if any(character in path for character in "*?[") and not fs.exists(path):
        folder = re.split(r"[*?[]", path)[0].rpartition("/")[0] or "/"
        found = [each for each in _glob(fs, path, pattern) if local or fs.isfile(each)]
    elif fs.isdir(path):
        folder = path
        found = [each for each in fs.find(path) if _is_data(each) or (local and os.path.isdir(each))]
    else:
        folder, found = "/", [path] if fs.isfile(path) else []
    matches = list(_files(sorted(found), folder)) if local else sorted(found)
    if not matches:
        remedy = "paths are relative to the folder you run the command in"
        if fs.isdir(path):
            remedy = f"a folder's .json files have to be named: {os.path.join(pattern, '*.json')}"
        raise JobError("input.path", pattern, "no such file", remedy)
    return matches


def _glob(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> list[str]:
    try:
        return fs.glob(path)
    except ValueError as error:
        raise JobError("input.path", pattern, f"not a valid glob: {error}", "correct the pattern") from None


def _files(paths: list[str], folder: str) -> Iterator[str]:
    """Those of a local folder's entries that are files.

    A link out of the folder is refused: whoever wrote the folder might want what only its reader may see.
    """
    inside = os.path.join(os.path.realpath(folder), "")
    for path in paths:
        target = os.path.realpath(path)
        if not target.startswith(inside):
            raise JobError(
                "input.path", path, f"this link leads out of {folder}, to {target}",
                "take it out of the folder; to read the file, name it in input.path itself",
            )  # fmt: skip
        if os.path.isfile(path):
            yield path
        elif not os.path.isdir(path):
            raise JobError("input.path", path, "it is neither a file nor a folder", "take it out of the folder")


def _name(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> str:
    """As the job names it: a relative path stays relative, so that a run can be resumed from another machine."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise JobError("input.path", repr(path), "its name is not UTF-8", "rename the file") from None
    if not is_local(fs):
        return fs.unstrip_protocol(path)
    return path if os.path.isabs(os.path.expanduser(pattern)) or "://" in pattern else os.path.relpath(path)


def _is_data(path: str) -> bool:
    """Whether a file in a folder is taken. One that ends in .json is mostly about the data (dataset_info.json)."""
    return _known_suffix(path) not in (None, "json")


def _known_suffix(path: str) -> str | None:
    return _FORMAT_OF_SUFFIX.get(suffix_of(path))


def _format(path: str, section: Input) -> str:
    if section.format != "auto":
        return section.format
    if found := _known_suffix(path):
        return found
    remedy = "set input.format to parquet, jsonl, json, csv or text"
    raise JobError("input.path", path, "its ending does not tell its format", remedy)

"""The files that an `input` section names: a file, a folder, a glob, or a list of them, on any file system.

Invariant: the files of a folder or glob that is read are inside it; no link leads to a file elsewhere. Which of them
are data is decided in `file_choice`.
"""

import logging
import os
import re
from collections.abc import Iterator

import fsspec

from pipelines.inputs.compression import format_ending
from pipelines.inputs.encodings import check_encoding
from pipelines.inputs.file_choice import HIDDEN, FileChoice, is_hidden, skip_documents, skip_runs, split_of
from pipelines.inputs.formats import FORMATS
from pipelines.inputs.other_content import refuse_other_content
from pipelines.inputs.saved_dataset import is_cache, is_saved_dataset, saved_files
from pipelines.inputs.sources import FileSource
from pipelines.inputs.text_format import TextSource
from schemas.errors import JobError
from schemas.job import Input
from services.storage.filesystem import is_local, resolve

_log = logging.getLogger("kindling")
_FORMAT_BY_NAME = {file_format.format: file_format for file_format in FORMATS}
_FORMAT_BY_ENDING = {ending: file_format for file_format in FORMATS for ending in file_format.endings}


def input_files(section: Input, is_prose: bool = False) -> list[FileSource]:
    """Returns the files of an input, each once: in the order of `input.path`, and sorted within a folder or glob.

    Args:
        section: the section `input` of a job.
        is_prose: whether the caller reads plain text alone, so that a table must not be taken for lines of it.

    Raises:
        JobError: a file is missing, its format or encoding is unknown, or a link leads out of its folder.
    """
    if section.encoding is not None:
        check_encoding(section.encoding)
    patterns = [section.path] if isinstance(section.path, str) else section.path or []
    files: dict[str, FileSource] = {}
    for pattern in patterns:
        fs, path = resolve(pattern, "input.path", section.storage_options)
        for match in _matches(fs, path, pattern, section):
            name = _name(fs, match, pattern)
            if is_prose and (table := _format_by_ending(match)) not in ("", TextSource.format):
                cause = f"it is a table ({table}), and this command reads plain text"
                remedy = "write the texts of its column as a .txt file, each in a line of its own"
                raise JobError("input.path", name, cause, remedy)
            format_name = section.format if section.format != "auto" else _format_by_ending(match)
            refuse_other_content(fs, match, name, format_name)
            file_format = _format(match, format_name)
            if section.encoding is not None and not file_format.is_text:
                cause = f"{name} is no text file, and has no encoding"
                raise JobError("input.encoding", section.encoding, cause, "leave the key out, or name text files alone")
            files[name] = file_format(name, fs, match, **file_format.options(section))
    return list(files.values())


def _matches(fs: fsspec.AbstractFileSystem, path: str, pattern: str, section: Input) -> list[str]:
    local = is_local(fs)
    # A file may have the characters of a glob in its name: "rows [1].txt".
    if any(character in path for character in "*?[") and not fs.exists(path):
        folder = re.split(r"[*?[]", path)[0].rpartition("/")[0] or "/"
        choice = FileChoice([match for match in _glob(fs, path, pattern) if not _is_folder(fs, match)])
        _skip_in_glob(choice, fs, folder, path, section)
    elif fs.isdir(path) and is_saved_dataset(fs, path):
        folder, choice = path, FileChoice(saved_files(fs, path, pattern))
    elif fs.isdir(path):
        folder = path
        files = fs.find(path)
        # fsspec lists a link to a folder among the files; `_regular_files` has to see where it leads.
        choice = FileChoice([file for file in files if _is_input(file) or (local and os.path.isdir(file))])
        choice.keep(HIDDEN, lambda file: not is_hidden(file, folder))
        skip_runs(choice, fs, folder, files)
        skip_documents(choice, _endings(section))
        _refuse_splits(choice.paths, folder, pattern)
    else:
        folder, choice = "/", FileChoice([path] if fs.isfile(path) else [])
    matches = list(_regular_files(sorted(choice.paths), folder)) if local else sorted(choice.paths)
    if not matches:
        raise _nothing(fs, path, pattern, choice)
    if choice.skipped:
        _log.info("input.path = %s: not read: %s; a file that is named itself is", pattern, choice.skipped_text())
    return matches


def _skip_in_glob(choice: FileChoice, fs: fsspec.AbstractFileSystem, folder: str, pattern: str, section: Input) -> None:
    choice.keep(HIDDEN, lambda file: not is_hidden(file, folder, pattern))
    choice.keep("caches of datasets", lambda file: not is_cache(file))
    # A pattern without ** names each level: runs/*/data/*.parquet means what it says.
    if "**" in pattern:
        skip_runs(choice, fs, folder, fs.find(folder))
    if not format_ending(pattern):
        skip_documents(choice, _endings(section))


def _refuse_splits(paths: list[str], folder: str, pattern: str) -> None:
    """Refuses a folder with several splits, whose rows nobody wants in one sequence."""
    splits = {split_of(path, folder): path for path in paths}
    if len(splits) > 1 and "" not in splits:
        cause = f"its files are of several splits, which would be mixed: {', '.join(sorted(splits))}"
        example = os.path.relpath(min(splits.items())[1], folder)
        remedy = (
            f"read one: input: {{dataset: {pattern}, split: train}}; or name files: {os.path.join(pattern, example)}"
        )
        raise JobError("input.path", pattern, cause, remedy)


def _endings(section: Input) -> tuple[str, ...]:
    return () if section.format == "auto" else _FORMAT_BY_NAME[section.format].endings


def _nothing(fs: fsspec.AbstractFileSystem, path: str, pattern: str, choice: FileChoice) -> JobError:
    if choice.skipped:
        cause = f"all files in it are left out: {choice.skipped_text()}"
        return JobError("input.path", pattern, cause, "a file that is named itself is read: name it")
    remedy = "paths are relative to the folder you run the command in"
    if fs.isdir(path):
        remedy = f"a folder's .json and .arrow files have to be named: {os.path.join(pattern, '*.json')}"
    return JobError("input.path", pattern, "no such file", remedy)


def _is_folder(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    # A link to a folder is none: `_regular_files` has to see where it leads.
    return os.path.isdir(path) and not os.path.islink(path) if is_local(fs) else not fs.isfile(path)


def _glob(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> list[str]:
    try:
        return fs.glob(path)
    except ValueError as error:
        raise JobError("input.path", pattern, f"not a valid glob: {error}", "correct the pattern") from None


def _regular_files(paths: list[str], folder: str) -> Iterator[str]:
    """Yields the paths in a local folder that are files; refuses links out of it, pipes and devices.

    Whoever may write into the folder could otherwise make the reader, who may have more rights, publish any file.
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
    """Returns the name of a file, as the job names it.

    A relative path stays relative, so that a run can be resumed on another machine.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise JobError("input.path", repr(path), "its name is not UTF-8", "rename the file") from None
    if not is_local(fs):
        return fs.unstrip_protocol(path)
    return path if os.path.isabs(os.path.expanduser(pattern)) or "://" in pattern else os.path.relpath(path)


def _is_input(path: str) -> bool:
    """Returns whether a file in a folder is input."""
    file_format = _FORMAT_BY_ENDING.get(format_ending(path))
    return file_format is not None and file_format.is_read_from_folders


def _format_by_ending(path: str) -> str:
    file_format = _FORMAT_BY_ENDING.get(format_ending(path))
    return file_format.format if file_format else ""


def _format(path: str, format_name: str) -> type[FileSource]:
    if format_name:
        return _FORMAT_BY_NAME[format_name]
    *names, last = _FORMAT_BY_NAME
    remedy = f"set input.format to {', '.join(names)} or {last}"
    raise JobError("input.path", path, "its ending names no known format", remedy)

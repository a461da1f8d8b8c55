"""Choice of the files of a folder or glob that are data: no hidden files, no runs of Kindling, no licence.

Invariant: a file that a job names itself is always input. What is left out of a folder or glob is logged, or is the
error where nothing else is there.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import fsspec

from pipelines.inputs.compression import format_ending
from pipelines.inputs.text_format import TextSource
from pipelines.run_folder import RECORD_NAMES
from schemas.errors import JobError
from schemas.text import shorten
from services.storage.filesystem import resolve

HIDDEN = "hidden or temporary files"
_RUNS = "output of Kindling's own jobs"
_DOCUMENTS = "plain text beside tables, or about the data"
_OTHERS = "files of other formats"

_RECORDS = frozenset(RECORD_NAMES.values())
# A record begins with the job. A file `train.json` of somebody else's data does not.
_RECORD = re.compile(rb'\s*\{[^{}\[\]]*"job":\s*\{')
_RECORD_BYTES = 4096
# `train-00000-of-00001.parquet`, `test.jsonl`, `validation/a.csv`: names by which `datasets` finds splits.
_SPLIT = re.compile(r"(train|training|test|testing|validation|valid|dev|eval)(?![a-z])", re.IGNORECASE)
_SPLIT_NAMES = {"training": "train", "testing": "test", "valid": "validation", "dev": "validation"}
_DOCUMENT = re.compile(r"(?:readme|licen[sc]e|copying|notice|citation|changelog)\b.*", re.IGNORECASE)


@dataclass
class FileChoice:
    """Files of a folder or glob.

    Attributes:
        paths: files that are input so far, sorted.
        skipped: files that are left out, by reason.
    """

    paths: list[str]
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, reason: str, is_input: Callable[[str], bool]) -> None:
        """Leaves out the files that are not input.

        Args:
            reason: noun for the others.
            is_input: rule.
        """
        skipped = [path for path in self.paths if not is_input(path)]
        self.paths = [path for path in self.paths if is_input(path)]
        if skipped:
            self.skipped.setdefault(reason, []).extend(skipped)

    def skipped_text(self) -> str:
        """Returns the files that are left out, as text for a message; "" where there are none."""
        return "; ".join(f"{len(paths)} {reason} ({_names(paths)})" for reason, paths in self.skipped.items())


def split_of(path: str, folder: str) -> str:
    """Returns the split that a file of a folder belongs to, by its name or that of a folder in it; "" for none."""
    names = path.removeprefix(folder).strip("/").split("/")
    splits = [match[1].lower() for name in reversed(names) if (match := _SPLIT.match(name))]
    return _SPLIT_NAMES.get(splits[0], splits[0]) if splits else ""


def is_hidden(path: str, folder: str, pattern: str = "") -> bool:
    """Returns whether a file, or a folder that it is in, is hidden or temporary, and the pattern does not name it so.

    Such names begin with a dot or an underscore, as for Hadoop, Spark and Hugging Face: ._rows.jsonl, _temporary/.

    Args:
        path: the file.
        folder: folder that the job names; its own path does not count.
        pattern: glob that the file matches, where it is not a whole folder that is read.
    """
    return _hidden_parts(path.removeprefix(folder)) > _hidden_parts(pattern.removeprefix(folder))


def _hidden_parts(path: str) -> int:
    return sum(part.startswith((".", "_")) for part in path.split("/"))


def returned_files(option: str, patterns: Sequence[str]) -> list[str]:
    """Returns the files that people sent back, of each path or glob, without hidden ones.

    Args:
        option: job key or option that names them, for errors.
        patterns: paths, URLs or globs.

    Raises:
        JobError: a path or glob matches no file.
    """
    returned = []
    for pattern in patterns:
        fs, path = resolve(pattern, option)
        folder = re.split(r"[*?[]", path)[0].rpartition("/")[0]
        files = [fs.unstrip_protocol(file) for file in sorted(fs.glob(path)) if not is_hidden(file, folder, path)]
        if not files:
            raise JobError(option, pattern, "no file is there", "name those that respondents sent back")
        returned += files
    return returned


def skip_runs(choice: FileChoice, fs: fsspec.AbstractFileSystem, folder: str, files: Iterable[str]) -> None:
    """Leaves out all that lies in run folders, also in that of this job; of a run that is named itself, all but data/.

    Args:
        fs: file system of the folder.
        folder: folder that the job names.
        files: all files in it.
    """
    records = [file for file in files if file.rpartition("/")[2] in _RECORDS and _is_record(fs, file)]
    runs = {record.rpartition("/")[0] for record in records}
    if folder in runs:
        runs.remove(folder)
        choice.keep(_RUNS, lambda path: path.startswith(f"{folder}/data/"))
    inside = tuple(f"{run}/" for run in runs)
    choice.keep(_RUNS, lambda path: not path.startswith(inside))


def _is_record(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    return _RECORD.match(fs.cat_file(path, end=_RECORD_BYTES)) is not None


def skip_documents(choice: FileChoice, endings: Sequence[str]) -> None:
    """Leaves out the files of a folder that are not its data.

    A folder's data is of the format that the job names. Without one, it is of all formats for tables, or else text.

    Args:
        endings: endings of the format that the job names; empty where it names none.
    """
    if any(format_ending(path) in endings for path in choice.paths):
        choice.keep(_OTHERS, lambda path: format_ending(path) in endings)
    elif any(not _is_text(path) for path in choice.paths):
        choice.keep(_DOCUMENTS, lambda path: not _is_text(path))
    if not all(_is_document(path) for path in choice.paths):
        choice.keep(_DOCUMENTS, lambda path: not _is_document(path))


def _is_text(path: str) -> bool:
    return format_ending(path) in TextSource.endings


def _is_document(path: str) -> bool:
    return _is_text(path) and _DOCUMENT.fullmatch(path.rpartition("/")[2]) is not None


def _names(paths: Sequence[str]) -> str:
    shown = ", ".join(path.rpartition("/")[2] for path in paths[:3])
    return shorten(shown if len(paths) <= 3 else f"{shown}, ...")

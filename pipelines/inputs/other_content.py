"""Files that are something else than their name says: known by their first bytes, and refused with a remedy."""

import re

import fsspec

from pipelines.inputs.compression import is_compressed
from schemas.errors import JobError

_HEAD_BYTES = 512
_RENAME = "give its name the ending of its format, or set input.format"
_SHEETS = (".xlsx", ".xls", ".ods")
_NOT_CSV = ("", "arrow", "compressed", "json", "jsonl", "parquet", "template", "text")
# First bytes of a file, the formats whose files may begin with them, what the file is, and the remedy.
_CONTENTS = (
    (rb"version https://git-lfs\.github\.com/spec/", (), "a Git LFS pointer, not the file", "run `git lfs pull`"),
    (
        rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype html|html|\?xml)\b", ("template",),
        "a web page or XML, which sites send in place of a file",
        "download the file itself; on the Hub its link has /resolve/, not /blob/",
    ),
    (rb"PK\x03\x04|\xd0\xcf\x11\xe0", (), "a ZIP archive or office document", "unpack it; save a sheet as CSV"),
    (rb"%PDF-\d", (), "a PDF document", "extract its text"),
    (rb"SQLite format 3\0", (), "an SQLite database", "export a table as CSV"),
    (
        rb"\x1f\x8b\x08|BZh\d1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd", ("compressed",),
        "compressed, which its name does not say", "add .gz, .bz2, .xz or .zst to its name",
    ),
    (rb"(?:\xef\xbb\xbf)?\s*\[?\s*\{\s*\"[^\"\n]*\"\s*:", _NOT_CSV, "JSON, not CSV", _RENAME),
    (rb"PAR1", ("parquet",), "a Parquet file", _RENAME),
    (rb"ARROW1\0|\xff{4}.{3}\0", ("arrow",), "an Arrow file", _RENAME),
)  # fmt: skip


def describe_content(data: bytes, file_format: str = "") -> tuple[str, str] | None:
    """Returns what a file is in place of one of its format, and the remedy; None where nothing speaks against it.

    Args:
        data: the first bytes of the file, or all.
        file_format: name of the format that the file is read as; "" where it is not known.
    """
    for pattern, formats, content, remedy in _CONTENTS:
        if file_format not in formats and re.match(pattern, data, re.DOTALL):
            return f"it is {content}", remedy
    return None


def refuse_other_content(fs: fsspec.AbstractFileSystem, path: str, name: str, file_format: str) -> None:
    """Refuses a file whose first bytes show that it is no file of its format.

    Args:
        fs: file system that the file is on.
        path: path of the file in that file system.
        name: name of the file, for the error.
        file_format: name of the format that the file is read as; "" where it is not known.

    Raises:
        JobError: the file is a spreadsheet, a Git LFS pointer, a web page, an archive, or a file of another format.
    """
    if name.lower().endswith(_SHEETS):
        raise JobError("input.path", name, "it is a spreadsheet", "save its sheet as CSV (UTF-8), and name that file")
    try:
        with fs.open(path, "rb", block_size=_HEAD_BYTES) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return  # whoever reads the file says why it cannot be read
    if other := describe_content(head, "compressed" if is_compressed(path) else file_format):
        raise JobError("input.path", name, *other)

"""Compressed input files, recognised by the ending of their name: .gz, .bz2, .xz, .zst."""

import os

import fsspec

from schemas.errors import JobError

_COMPRESSION_ENDINGS = (".gz", ".bz2", ".xz", ".zst")


def is_compressed(path: str) -> bool:
    """Returns whether the name of a file ends in a known compression."""
    return path.endswith(_COMPRESSION_ENDINGS)


def check_compression(name: str, path: str) -> None:
    """Refuses a file that this environment cannot decompress.

    Args:
        name: the file's name, for the error.
        path: the file's path.

    Raises:
        JobError: the file ends in .zst, and the package zstandard is missing.
    """
    if path.endswith(".zst") and "zstd" not in fsspec.available_compressions():
        remedy = "install zstandard, or decompress the file"
        raise JobError("input.path", name, "reading .zst files needs the Python package zstandard", remedy)


def format_ending(path: str) -> str:
    """Returns the ending that names a file's format, in lower case: `.csv` for data/x.CSV.gz."""
    for compression in _COMPRESSION_ENDINGS:
        path = path.removesuffix(compression)
    return os.path.splitext(path)[1].lower()

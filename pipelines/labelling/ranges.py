"""Cuts the input into ranges of bytes; each range becomes one shard, and any actor can read it on its own.

Invariant: each line belongs to exactly one range, the one in which its first byte lies.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.inputs.compression import is_compressed
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.sources import MAX_ROW_BYTES, FileSource, refuse_wide_text
from schemas.errors import JobError
from schemas.text import shorten
from services.storage.filesystem import is_local, resolve

_BLOCK_BYTES = 1 << 20
# A compressed file can only be read from its beginning, so it is one shard, whose sentences are held in memory.
_MAX_COMPRESSED_BYTES = 64 << 20


class LineRange(BaseModel):
    """The lines of a file that begin in a range of its bytes; all of a compressed file.

    Attributes:
        shard: number of the range among all ranges, which is the number of its shard.
        source: the file, as the job names it.
        url: path or URL of the file.
        start: first byte of the range.
        end: byte after the range; None: the range ends with the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    source: str
    url: str
    start: int
    end: int | None


def plan_ranges(files: list[FileSource], bytes_per_shard: int) -> list[LineRange]:
    """Returns the ranges of all files, in order; an empty file has none.

    Raises:
        JobError: a compressed file is too large to be one shard, a file cannot be read, or is in UTF-16 or UTF-32.
    """
    ranges: list[LineRange] = []
    for file in files:
        size, step = file.fs.size(file.path), bytes_per_shard
        if is_compressed(file.path):
            if size > _MAX_COMPRESSED_BYTES:
                cause = f"a compressed file is one shard, and this one is larger than {_MAX_COMPRESSED_BYTES >> 20} MiB"
                raise JobError("input.path", file.name, cause, "decompress it, or split it before it is compressed")
            step = max(size, 1)
        _check_text(file)
        url = file.path if is_local(file.fs) else file.fs.unstrip_protocol(file.path)
        for start in range(0, size, step):
            end = None if start + step >= size else start + step
            ranges.append(LineRange(shard=len(ranges), source=file.name, url=url, start=start, end=end))
    return ranges


def _check_text(file: FileSource) -> None:
    try:
        with file.open() as opened:
            refuse_wide_text("input.path", file.name, opened.read(4))
    except READ_ERRORS as error:
        cause = f"cannot be read: {shorten(str(error)) or type(error).__name__}"
        raise JobError("input.path", file.name, cause, "repair the file, or leave it out of the input") from None


def lines_of(line_range: LineRange) -> Iterator[tuple[int, bytes | None]]:
    """Yields offset and content of each line that begins in the range; None for a line of more than MAX_ROW_BYTES."""
    fs, path = resolve(line_range.url, "input.path")
    end = line_range.end
    with fs.open(path, "rb", compression="infer") as file:
        # A line that begins before the range belongs to an earlier range, so it is skipped. Reading starts one byte
        # early: where that byte is a line end, the first line of the range begins exactly at its start.
        skipping = line_range.start > 0
        first = line_range.start - 1 if skipping else 0
        if skipping:
            file.seek(first)
        line_start, size, line = first, 0, bytearray()
        for at, piece in _pieces(file, first):
            past_end = end is not None and at + len(piece) > end
            if not size:
                if not skipping and end is not None and at >= end:
                    return
                line_start = at
            size += len(piece)
            if size <= MAX_ROW_BYTES:
                line += piece
            if piece.endswith(b"\n"):
                if not skipping:
                    yield line_start, bytes(line) if size <= MAX_ROW_BYTES else None
                skipping, size = False, 0
                line.clear()
            elif skipping and past_end:
                return  # no line begins in the range
        if size and not skipping:
            yield line_start, bytes(line) if size <= MAX_ROW_BYTES else None


def _pieces(file: Any, at: int) -> Iterator[tuple[int, bytes]]:
    """Yields offset and content of pieces of a file; a piece ends with a line end, or with a block of the file."""
    while block := file.read(_BLOCK_BYTES):
        low = 0
        while low < len(block):
            high = block.find(b"\n", low) + 1 or len(block)
            yield at + low, block[low:high]
            low = high
        at += len(block)

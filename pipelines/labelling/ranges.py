"""The input as ranges of bytes: each is one shard, read and labelled for itself, wherever there is room."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.inputs.compression import check_compression, is_compressed
from pipelines.inputs.sources import MAX_ROW_BYTES, FileSource
from schemas.errors import JobError
from services.storage.filesystem import is_local, resolve

_BLOCK_BYTES = 1 << 20
# A compressed file has no way in but its beginning, so it is one shard, whose sentences are held in memory.
_MOST_COMPRESSED_BYTES = 64 << 20


class LineRange(BaseModel):
    """The lines of a file that begin in a range of its bytes; all of a compressed file.

    Attributes:
        shard: number of the range among all.
        source: the file, as the job names it.
        url: where it lies.
        end: past the last byte; None: the end of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    source: str
    url: str
    start: int
    end: int | None


def plan_ranges(files: list[FileSource], bytes_per_shard: int) -> list[LineRange]:
    """The ranges of all files, in order; an empty file has none.

    Raises:
        JobError: a compressed file is too large to be one shard.
    """
    ranges: list[LineRange] = []
    for file in files:
        size, step = file.fs.size(file.path), bytes_per_shard
        if is_compressed(file.path):
            check_compression(file.name, file.path)
            if size > _MOST_COMPRESSED_BYTES:
                cause = (
                    f"a compressed file is one shard, and this one is larger than {_MOST_COMPRESSED_BYTES >> 20} MiB"
                )
                raise JobError("input.path", file.name, cause, "decompress it, or split it before it is compressed")
            step = max(size, 1)
        url = file.path if is_local(file.fs) else file.fs.unstrip_protocol(file.path)
        for start in range(0, size, step):
            end = None if start + step >= size else start + step
            ranges.append(LineRange(shard=len(ranges), source=file.name, url=url, start=start, end=end))
    return ranges


def lines_of(each: LineRange) -> Iterator[tuple[int, bytes | None]]:
    """Offset and content of each line that begins in the range; None in place of one longer than a row may be."""
    fs, path = resolve(each.url, "input.path")
    with fs.open(path, "rb", compression="infer") as file:
        # The line that runs into the range belongs to the one before it.
        others = each.start > 0
        first = each.start - 1 if others else 0
        if others:
            file.seek(first)
        begins, size, line = first, 0, bytearray()
        for at, piece in _pieces(file, first):
            past_end = each.end is not None and at + len(piece) > each.end
            if not size:
                if not others and each.end is not None and at >= each.end:
                    return
                begins = at
            size += len(piece)
            if size <= MAX_ROW_BYTES:
                line += piece
            if piece.endswith(b"\n"):
                if not others:
                    yield begins, bytes(line) if size <= MAX_ROW_BYTES else None
                others, size = False, 0
                line.clear()
            elif others and past_end:
                return  # no line begins in the range
        if size and not others:
            yield begins, bytes(line) if size <= MAX_ROW_BYTES else None


def _pieces(file: Any, at: int) -> Iterator[tuple[int, bytes]]:
    """Offset and content of what lies between two line ends, or the borders of two blocks."""
    while block := file.read(_BLOCK_BYTES):
        low = 0
        while low < len(block):
            high = block.find(b"\n", low) + 1 or len(block)
            yield at + low, block[low:high]
            low = high
        at += len(block)

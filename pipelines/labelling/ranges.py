"""The input as ranges of bytes: each is one shard, read and labelled for itself, wherever there is room."""

import hashlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.input_files import InputFile
from pipelines.lines import MOST_ROW_BYTES
from pipelines.sources import is_compressed
from services.filesystem import is_local, resolve

_BLOCK_BYTES = 1 << 20


class LineRange(BaseModel):
    """The lines of a file that begin in a range of its bytes; all of a compressed file, which has no other way in.

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


def plan_ranges(files: list[InputFile], bytes_per_shard: int) -> list[LineRange]:
    """The ranges of all files, in order; an empty file has none."""
    ranges: list[LineRange] = []
    for file in files:
        size = file.fs.size(file.path)
        step = max(size, 1) if is_compressed(file.path) else bytes_per_shard
        for start in range(0, size, step):
            end = None if start + step >= size else start + step
            url = file.path if is_local(file.fs) else file.fs.unstrip_protocol(file.path)
            ranges.append(LineRange(shard=len(ranges), source=file.name, url=url, start=start, end=end))
    return ranges


def lines_of(each: LineRange) -> Iterator[tuple[int, bytes | None]]:
    """Offset and content of each line that begins in the range; None in place of one longer than a row may be."""
    fs, path = resolve(each.url, "input.path")
    with fs.open(path, "rb", compression="infer") as file:
        at = each.start
        if at:
            # The line that runs into the range belongs to the one before it.
            file.seek(at - 1)
            at += _rest_of_line(file) - 1
        while each.end is None or at < each.end:
            line = file.readline(MOST_ROW_BYTES + 1)
            if not line:
                return
            begins, at = at, at + len(line)
            if len(line) > MOST_ROW_BYTES:
                at += 0 if line.endswith(b"\n") else _rest_of_line(file)
                yield begins, None
            else:
                yield begins, line


def _rest_of_line(file: Any) -> int:
    """Passes over what is left of a line; how many bytes that was."""
    passed = 0
    while part := file.readline(_BLOCK_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def content_of(file: InputFile) -> str:
    """What identifies a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with file.fs.open(file.path, "rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()

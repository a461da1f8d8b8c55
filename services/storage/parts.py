"""Parts: the units that are committed. A shard is one part, and each retry of some of its rows is another.

A part has one number for all uses: that of its shard, plus a billion for each retry of the run until it. Its files are
named `part-00003` and, for retry 1, `part-00003.r1`.

Invariant: an output has the state that the newest part which holds it says. A retry of a shard generates all its rows
of one state again, so the rows of that state in earlier parts of the shard are superseded, file by file.
"""

import re
from collections.abc import Iterable

from schemas.run import Manifest

_SHARDS = 10**9
_NAME = re.compile(r"part-(\d{5,9})(?:\.r([1-9]\d{0,5}))?")
# On object stores each driver gives its files of rejected and failed rows a name of its own.
_OWNER = re.compile(r"\.[0-9a-f]{8}$")


def part_number(shard: int, retry: int = 0) -> int:
    """Returns the number of a part; retry 0 is the shard itself."""
    return retry * _SHARDS + shard


def shard_of(part: int) -> int:
    """Returns the number of the shard that a part belongs to."""
    return part % _SHARDS


def retry_of(part: int) -> int:
    """Returns the number of the retry that a part belongs to; 0 for a shard itself."""
    return part // _SHARDS


def in_input_order(parts: Iterable[int]) -> list[int]:
    """Returns parts by shard, and the parts of a shard by their age."""
    return sorted(parts, key=lambda part: (shard_of(part), retry_of(part)))


def part_of(manifest: Manifest) -> int:
    """Returns the number of the part that a manifest is of."""
    return part_number(manifest.shard, manifest.retry)


def part_name(part: int) -> str:
    """Returns the name of a part's files, without their ending."""
    retry = f".r{retry_of(part)}" if retry_of(part) else ""
    return f"part-{shard_of(part):05d}{retry}"


def parse_part(name: str, ending: str, with_owner: bool = False) -> int | None:
    """Returns the number of the part whose file has this name; None for any other file.

    Args:
        with_owner: the name may have the driver that wrote the file in it.
    """
    stem = name.removesuffix(ending)
    match = _NAME.fullmatch(_OWNER.sub("", stem) if with_owner else stem) if name.endswith(ending) else None
    return part_number(int(match[1]), int(match[2] or 0)) if match else None


def is_owned(path: str) -> bool:
    """Returns whether the name of a file of rejected or failed rows has the driver that wrote it in it."""
    return _OWNER.search(path.removesuffix(".parquet")) is not None

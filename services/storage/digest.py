"""A digest of the data files of a folder, renewed file by file."""

from hashlib import blake2b


class ContentDigest:
    """Digest of a set of files. To add a file costs the same however many there are; their order does not matter."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, *facts: str | int) -> None:
        """Adds a file.

        Args:
            facts: values that no other file, and no other content of this file, has together.
        """
        self._sum ^= int.from_bytes(blake2b(repr(facts).encode(), digest_size=16).digest(), "big")

    def __str__(self) -> str:
        return f"{self._sum:032x}"

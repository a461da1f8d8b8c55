"""Texts that say almost the same as an earlier one: MinHash LSH finds candidates, and their words decide.

Two texts are as alike as the share of words and pairs of neighbouring words that they have in common (Jaccard), case,
spaces and punctuation aside. Which of them comes first is all that matters: nothing is drawn, and nothing depends on
who asks, or how often.
"""

import re
from itertools import pairwise

import numpy as np
from datasketch import MinHash, MinHashLSH, sha1_hash32

from pipelines.inputs.reader import InputReader
from services.replicas.row_records import Recipe

# One word in ten is another: what is asked for is the same. "The capital of France" and "of Spain" stay far below.
THRESHOLD = 0.8
# Of ten hash bands of five, texts at the threshold share one in 98 of 100 cases, and closer ones nearly always.
_BANDS, _ROWS = 10, 5
# Many rows of one form are all candidates of each other; so many, the first ones, are compared.
_MOST_CANDIDATES = 200
# What is kept of the texts, in hashes of four bytes, and as many texts at most: a gigabyte, with the index.
_MOST_TEXTS, _MOST_HASHES = 300_000, 50_000_000
# Hashed at a time: what that takes is many times as much.
_HASHES_AT_A_TIME = 4096

RULES = f"1: {THRESHOLD}, {_BANDS}x{_ROWS}, {_MOST_CANDIDATES}, {_MOST_TEXTS}, {_MOST_HASHES}"
"""what decides which rows are near-duplicates; a run whose rules change is another run"""


class NearDuplicates:
    """The texts so far that are like no other; about 3 KB of memory for each of a sentence.

    Args:
        most: texts to keep; later ones are compared with these, and no longer with each other.
    """

    def __init__(self, most: int = _MOST_TEXTS) -> None:
        self._most, self._hashes = most, 0
        self._index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._empty = MinHash(_BANDS * _ROWS, hashfunc=int)
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def first_like(self, text: str, number: int, beside: str = "") -> int | None:
        """The number of the first kept text that this one is like; None where none is, and this one is kept then.

        Args:
            number: of this text; above those of all earlier ones.
            beside: a second text that has to be like the other's as well: an instruction's input.
        """
        features = _features(text), _features(beside)
        signature = self._empty.copy()
        for part in features:
            for low in range(0, len(part), _HASHES_AT_A_TIME):
                signature.update_batch(part[low : low + _HASHES_AT_A_TIME].tolist())
        for other in sorted(self._index.query(signature))[:_MOST_CANDIDATES]:
            if all(_share(mine, its) >= THRESHOLD for mine, its in zip(features, self._kept[other], strict=True)):
                return other
        if len(self._kept) < self._most and self._hashes < _MOST_HASHES:
            self._index.insert(number, signature, check_duplication=False)
            self._kept[number] = features
            self._hashes += sum(map(len, features))
        return None


def near_duplicate_rows(reader: InputReader, recipe: Recipe) -> dict[int, int]:
    """The number of the first row that a row is like, by its own among all rows; reads the whole input.

    Rows that the recipe does not compare, because they are refused anyhow, stand for no other.
    """
    seen, found = NearDuplicates(), {}
    for number, (_, _, row) in enumerate(reader.rows(0, sum(source.rows for source in reader.inputs))):
        text, beside = recipe.compared(row.values) if row.values is not None else ("", "")
        if text and (first := seen.first_like(text, number, beside)) is not None:
            found[number] = first
    return found


def _features(text: str) -> np.ndarray:
    """Sorted hashes of its words and of their pairs; what stands between two numbers may be what matters."""
    words = re.findall(r"\w+|(?<=\d)\s*[-+*/^=<>%]+\s*(?=\d)", text.casefold()) or [text.strip()]
    pairs = (" ".join(pair) for pair in pairwise(words))
    return np.array(sorted({sha1_hash32(feature.encode()) for feature in (*words, *pairs)}), dtype=np.uint32)


def _share(one: np.ndarray, other: np.ndarray) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)

"""Texts that say almost the same as an earlier one: MinHash LSH finds candidates, and their words decide.

Two texts are as alike as the share of words and pairs of neighbouring words that they have in common (Jaccard), case,
spaces and punctuation aside. Which of them comes first is all that matters: nothing is drawn, and nothing depends on
who asks, or how often.
"""

import re
from itertools import pairwise

import numpy as np
from datasketch import MinHash, MinHashLSH, sha1_hash32

from pipelines.inputs import InputReader
from schemas.run import InputSource
from services.records import Recipe

# One word in ten is another: what is asked for is the same. "The capital of France" and "of Spain" stay far below.
THRESHOLD = 0.8
# Of ten hash bands of five, texts at the threshold share one in 98 of 100 cases, and closer ones nearly always.
_BANDS, _ROWS = 10, 5
# About a gigabyte of them.
_MOST_TEXTS = 300_000


class NearDuplicates:
    """The texts so far that are like no other; about 3 KB of memory for each of a sentence.

    Args:
        most: texts to keep; later ones are compared with these, and no longer with each other.
    """

    def __init__(self, most: int = _MOST_TEXTS) -> None:
        self._most = most
        self._index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._empty = MinHash(_BANDS * _ROWS, hashfunc=int)
        self._kept: dict[int, np.ndarray] = {}

    def first_like(self, text: str, number: int) -> int | None:
        """The number of the first kept text that this one is like; None where none is, and this one is kept then.

        Args:
            number: of this text; above those of all earlier ones.
        """
        features = _features(text)
        signature = self._empty.copy()
        signature.update_batch(features.tolist())
        like = (other for other in self._index.query(signature) if _share(features, self._kept[other]) >= THRESHOLD)
        if (first := min(like, default=None)) is not None:
            return first
        if len(self._kept) < self._most:
            self._index.insert(number, signature, check_duplication=False)
            self._kept[number] = features
        return None


def near_duplicate_rows(reader: InputReader, recipe: Recipe) -> dict[int, str]:
    """Why a row is rejected that is like an earlier one, by its number among all rows; reads the whole input.

    Rows that the recipe does not compare, because they are refused anyhow, stand for no other.
    """
    seen, found = NearDuplicates(), {}
    for number, (_, _, row) in enumerate(reader.rows(0, sum(source.rows for source in reader.inputs))):
        text = recipe.compared(row.values) if row.values is not None else ""
        if text and (first := seen.first_like(text, number)) is not None:
            found[number] = f"near_duplicate of row {_place(reader.inputs, first)}"
    return found


def _place(inputs: list[InputSource], number: int) -> str:
    for source in inputs:
        if number < source.rows:
            return f"{number} of {source.source}"
        number -= source.rows
    raise ValueError(f"the input ends {number} rows before it")


def _features(text: str) -> np.ndarray:
    """Sorted hashes of its words and of their pairs."""
    words = re.findall(r"\w+", text.casefold()) or [text.strip()]
    pairs = (" ".join(pair) for pair in pairwise(words))
    return np.array(sorted({sha1_hash32(feature.encode()) for feature in (*words, *pairs)}), dtype=np.uint32)


def _share(one: np.ndarray, other: np.ndarray) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)

"""Near-duplicates: texts that say almost the same as an earlier text. MinHash LSH finds candidates; their words decide.

Invariant: the result depends on the order of the texts only. Nothing is random, so a run that is resumed, extended, or
read a second time finds the same near-duplicates.

The similarity of two texts is the Jaccard index of their words and pairs of neighbouring words, without case, spaces
and punctuation.

Method: MinHash LSH with banding (Broder, 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).
"""

import re
from itertools import pairwise

import numpy as np
from datasketch import MinHash, MinHashLSH, sha1_hash32
from numpy.typing import NDArray

from pipelines.inputs.reader import InputRows
from services.replicas.row_records import Recipe

# About one word in ten may differ. "The capital of France" and "The capital of Spain" are far less similar.
THRESHOLD = 0.8
# With ten bands of five hashes, 98% of the pairs at the threshold share a band, and nearly all closer pairs do.
_BANDS, _HASHES_PER_BAND = 10, 5
# Rows that are all made from one form are candidates of each other: only so many, the first ones, are compared.
_MAX_CANDIDATES = 200
# Limits of what is kept: texts, and four-byte hashes of their words. With the index they take about a gigabyte.
_MAX_TEXTS, _MAX_HASHES = 300_000, 50_000_000
# Hashes that are added to a signature at once: an update takes many times their memory.
_HASHES_PER_UPDATE = 4096

RULES = f"1: {THRESHOLD}, {_BANDS}x{_HASHES_PER_BAND}, {_MAX_CANDIDATES}, {_MAX_TEXTS}, {_MAX_HASHES}"
"""all settings that decide which rows are near-duplicates; part of a run's fingerprint"""

Hashes = NDArray[np.uint32]
"""sorted hashes of a text's words and pairs of words, each once; shape (features,)"""


class NearDuplicates:
    """The texts so far that are no near-duplicates; about 3 KB of memory for each sentence.

    Args:
        max_texts: number of texts to keep. Later texts are compared with these, but not with each other.
    """

    def __init__(self, max_texts: int = _MAX_TEXTS) -> None:
        self._max_texts, self._hash_count = max_texts, 0
        self._index = MinHashLSH(num_perm=_BANDS * _HASHES_PER_BAND, params=(_BANDS, _HASHES_PER_BAND))
        self._empty = MinHash(_BANDS * _HASHES_PER_BAND, hashfunc=int)
        self._kept: dict[int, tuple[Hashes, Hashes]] = {}

    def __len__(self) -> int:
        """Number of texts that are kept."""
        return len(self._kept)

    @property
    def is_full(self) -> bool:
        """True where no further text is kept: later texts are not compared with each other."""
        return len(self._kept) >= self._max_texts or self._hash_count >= _MAX_HASHES

    def find_or_add(self, text: str, number: int, second_text: str = "") -> int | None:
        """Returns the number of the first kept text that this one is similar to.

        If there is none, keeps this text and returns None.

        Args:
            text: the text.
            number: number of this text, above those of all earlier texts.
            second_text: another text of the same row (an instruction's input). Rows are near-duplicates if both texts
                are similar.
        """
        features = _features(text), _features(second_text)
        # One signature for both texts finds candidates; below, each text is compared with its own counterpart.
        signature = self._empty.copy()
        for hashes in features:
            for low in range(0, len(hashes), _HASHES_PER_UPDATE):
                signature.update_batch(hashes[low : low + _HASHES_PER_UPDATE].tolist())
        # The index is unordered; sorting makes the earliest text the result.
        for candidate in sorted(self._index.query(signature))[:_MAX_CANDIDATES]:
            pairs = zip(features, self._kept[candidate], strict=True)
            if all(_jaccard_index(hashes, kept) >= THRESHOLD for hashes, kept in pairs):
                return candidate
        if not self.is_full:
            self._index.insert(number, signature, check_duplication=False)
            self._kept[number] = features
            self._hash_count += sum(map(len, features))
        return None


def find_near_duplicates(rows: InputRows, recipe: Recipe) -> dict[int, int]:
    """Returns the number of the first similar row for each near-duplicate row; reads the whole input.

    Rows are numbered over all sources. A row that the recipe rejects anyway is not compared, so that no good row is
    rejected as its near-duplicate.
    """
    texts = NearDuplicates()
    first_numbers = {}
    for number, (_, _, row) in enumerate(rows.all_rows()):
        text, second_text = recipe.comparison_texts(row.values) if row.values is not None else ("", "")
        if text and (first := texts.find_or_add(text, number, second_text)) is not None:
            first_numbers[number] = first
    return first_numbers


def _features(text: str) -> Hashes:
    # An operator between two numbers is a word: "12 + 7" and "12 - 7" ask for different things.
    words = re.findall(r"\w+|(?<=\d)\s*[-+*/^=<>%]+\s*(?=\d)", text.casefold()) or [text.strip()]
    pairs = (" ".join(pair) for pair in pairwise(words))
    return np.array(sorted({sha1_hash32(feature.encode()) for feature in (*words, *pairs)}), dtype=np.uint32)


def _jaccard_index(one: Hashes, other: Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)

"""Reference sets: texts that no row may contain (BLiMP's sentences, evaluation prompts), and the search for them.

A text contains a reference text where it has 13 words in a row of it, or all words of a shorter one. So the training
data of GPT-3 was cleaned of benchmarks (Brown et al., 2020, appendix C).
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipelines.quality_control.text_checks import words

SEQUENCE_WORDS = 13
MIN_WORDS = 5
"""number of words that a reference text has at least: shorter ones are in many texts by chance"""
MAX_SEQUENCES = 2_000_000
"""largest number of sequences that are held, in about 300 bytes each"""


class ReferenceSets:
    """Sequences of words of reference texts; pickled to every replica.

    Args:
        texts: texts of each set, by its name.

    Attributes:
        searched: number of texts that are searched for, by set.
        too_short: number of texts that are not, since they have fewer than MIN_WORDS words, by set.

    Raises:
        ValueError: the texts have more than MAX_SEQUENCES sequences of words.
    """

    def __init__(self, texts: Mapping[str, Iterable[str]]) -> None:
        self.searched: Counter[str] = Counter()
        self.too_short: Counter[str] = Counter()
        # Sequences, with the set of each, by their first words: one look-up for each word of a text finds candidates.
        self._by_beginning: dict[str, dict[str, str]] = {}
        sequences = 0
        for name, of_set in texts.items():
            for text in of_set:
                its_words = words(text)
                if len(its_words) < MIN_WORDS:
                    self.too_short[name] += 1
                    continue
                self.searched[name] += 1
                for start in range(max(len(its_words) - SEQUENCE_WORDS, 0) + 1):
                    sequence = its_words[start : start + SEQUENCE_WORDS]
                    self._by_beginning.setdefault(_joined(sequence), {}).setdefault(" ".join(sequence), name)
                    sequences += 1
                if sequences > MAX_SEQUENCES:
                    raise ValueError(f"they have more than {MAX_SEQUENCES:,} sequences of {SEQUENCE_WORDS} words")

    def find(self, text: str) -> tuple[str, str] | None:
        """Returns the name of the first set that a text contains a text of, and the common words; None for none."""
        its_words = words(text)
        for start in range(len(its_words) - MIN_WORDS + 1):
            following = its_words[start : start + SEQUENCE_WORDS]
            for sequence, name in self._by_beginning.get(_joined(following), {}).items():
                if f"{' '.join(following)} ".startswith(f"{sequence} "):
                    return name, sequence
        return None


def _joined(sequence: list[str]) -> str:
    return " ".join(sequence[:MIN_WORDS])

"""The number of words that each part of a corpus gives, and the choice of documents from a part that has more.

Invariant: a part never gives more words than it is asked for, and the same seed over the same documents always takes
the same documents.

The choice is spread evenly over a part: a hash of the seed and of the document's place draws a number for each
document, and the documents with the lowest numbers are taken. Memory does not grow with the documents, since only the
words for each possible number are counted. Of the documents with the last number not all fit; they are taken in their
order, as long as they fit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from pipelines.corpora.documents import Document
from schemas.compose import ComposeJob
from schemas.errors import JobError
from schemas.text import shorten

# Number of different numbers that are drawn, from two bytes of a hash.
_DRAWS = 1 << 16


def words_asked(job: ComposeJob, available: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of words that each part is asked for, by name; a part may have fewer.

    Args:
        job: the job; a part has a number of words, or `all`, or a weight by which the rest of the budget is shared.
        available: number of words in each part with `words: all`; a part that is missing counts as 0.

    Raises:
        JobError: the parts ask for more than the budget, or nothing of it is left for one of them.
    """
    fixed = {
        name: available.get(name, 0) if part.words == "all" else part.words
        for name, part in job.parts.items()
        if part.words is not None
    }
    weights = {name: part.weight or 1.0 for name, part in job.parts.items() if part.words is None}
    rest = job.words - sum(fixed.values())
    if rest < 0:
        cause = f"its parts ask for {sum(fixed.values()):,} words"
        raise JobError("words", job.words, cause, "raise the budget, or ask a part for fewer words")
    shared = {name: int(rest * weight / sum(weights.values())) for name, weight in weights.items()}
    for name in (name for name, words in shared.items() if not words):
        raise JobError(f"parts.{name}", None, "no word of the budget is left for it", "raise `words`, or leave it out")
    return {name: fixed.get(name) or shared.get(name, 0) for name in job.parts}


@dataclass
class Survey:
    """Counts of the documents of a part.

    Attributes:
        documents: number of documents that can be read.
        words: number of their words.
        unreadable: number of documents that cannot be read.
        first_unreadable: place and fault of the first of these; may be empty.
        words_of_draw: number of words by the number drawn for their document.
    """

    documents: int = 0
    words: int = 0
    unreadable: int = 0
    first_unreadable: str = ""
    words_of_draw: list[int] = field(default_factory=lambda: [0] * _DRAWS)


def survey(documents: Iterable[Document], seed: int) -> Survey:
    """Counts the documents of a part, which is read once."""
    counts = Survey()
    for document in documents:
        if document.fault:
            place = f"row {document.row_index} of {document.source}"
            counts.first_unreadable = counts.first_unreadable or shorten(f"{place}: {document.fault}")
            counts.unreadable += 1
            continue
        counts.documents += 1
        counts.words += document.words
        counts.words_of_draw[_draw(document, seed)] += document.words
    return counts


class Choice:
    """The choice of documents from a part. `takes` must be called once for each document, in their order.

    Args:
        counts: counts of the part, made with the same seed.
        max_words: largest number of words that are taken.
        seed: seed of the draw.
    """

    def __init__(self, counts: Survey, max_words: int, seed: int) -> None:
        self._seed, self._left = seed, max_words
        # All documents with a lower number than this one are taken; of those with this number, as many as fit.
        self._last = _DRAWS
        for draw, words in enumerate(counts.words_of_draw):
            if words > self._left:
                self._last = draw
                break
            self._left -= words

    def takes(self, document: Document) -> bool:
        """Returns whether the next document is taken."""
        if document.fault:
            return False
        draw = _draw(document, self._seed)
        if draw == self._last and document.words <= self._left:
            self._left -= document.words
            return True
        return draw < self._last


def _draw(document: Document, seed: int) -> int:
    place = (seed, document.source, document.row_index, document.sample, document.variant)
    return int.from_bytes(blake2b(repr(place).encode(), digest_size=2).digest(), "big")

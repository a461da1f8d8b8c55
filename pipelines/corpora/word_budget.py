"""How many words each part of a corpus is asked for, and which of its documents those are.

A part that has more than is asked of it is thinned out evenly: a hash of the seed and of where a document lies draws a
number for it, and the lowest are taken. Memory does not grow with the documents: words are counted for each number that
can be drawn, and of the last number, whose documents fit in part, those are taken that still fit as they come.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from pipelines.corpora.documents import Document
from schemas.compose import ComposeJob
from schemas.errors import JobError
from schemas.text import shorten

_DRAWS = 1 << 16


def words_asked(job: ComposeJob, there: Mapping[str, int]) -> dict[str, int]:
    """The words that each part is to give, whether it has them or not.

    Args:
        there: words of the parts that are to give all; one that is not known yet counts for nothing.

    Raises:
        JobError: the parts ask for more than the budget, or leave nothing of it to one of them.
    """
    fixed = {
        name: there.get(name, 0) if part.words == "all" else part.words
        for name, part in job.parts.items()
        if part.words is not None
    }
    weights = {name: part.weight or 1.0 for name, part in job.parts.items() if part.words is None}
    rest = job.words - sum(fixed.values())
    if rest < 0:
        cause = f"its parts ask for {sum(fixed.values()):,} words"
        raise JobError("words", job.words, cause, "raise the budget, or ask a part for fewer")
    shared = {name: int(rest * weight / sum(weights.values())) for name, weight in weights.items()}
    for name in (name for name, words in shared.items() if not words):
        raise JobError(f"parts.{name}", None, "no word of the budget is left for it", "raise `words`, or leave it out")
    return {name: fixed.get(name) or shared.get(name, 0) for name in job.parts}


@dataclass
class Survey:
    """What there is of a part.

    Attributes:
        words_of_draw: words of the documents by the number drawn for them.
    """

    documents: int = 0
    words: int = 0
    unreadable: int = 0
    first_unreadable: str = ""
    words_of_draw: list[int] = field(default_factory=lambda: [0] * _DRAWS)


def survey(documents: Iterable[Document], seed: int) -> Survey:
    """Counts a part, on one way through it."""
    found = Survey()
    for document in documents:
        if document.fault:
            place = f"row {document.row_index} of {document.source}"
            found.first_unreadable = found.first_unreadable or shorten(f"{place}: {document.fault}")
            found.unreadable += 1
            continue
        found.documents += 1
        found.words += document.words
        found.words_of_draw[_draw(document, seed)] += document.words
    return found


class Choice:
    """Which documents of a part are taken; to be asked for each one in their order.

    Args:
        asked: words; never more are taken.
    """

    def __init__(self, found: Survey, asked: int, seed: int) -> None:
        self._seed, self._left = seed, asked
        self._last = _DRAWS
        for draw, words in enumerate(found.words_of_draw):
            if words > self._left:
                self._last = draw
                break
            self._left -= words

    def takes(self, document: Document) -> bool:
        """Whether this one is taken."""
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

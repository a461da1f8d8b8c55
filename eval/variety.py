"""How long and how varied texts are: a model that says the same happy sentence to everything is seen through by these.

Words are what whitespace separates, in lower case.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OPENING_WORDS = 4
_DISTINCT = (1, 2, 3)
# Welleck et al. (2020) measure the repetition of a text by its 4-grams.
_REPEATED = 4


@dataclass(frozen=True)
class Variety:
    """Of some texts.

    Attributes:
        texts: how many.
        blank: those without a word.
        words: the average of a text.
        distinct: different n-grams over all n-grams of all texts, by n (Li et al., 2016); falls as texts grow in
            number and length, so compare it between models on the same prompts. None where no text has so many words.
        distinct_openings: different beginnings of four words, over the texts that are not blank.
        commonest_opening: the one that most texts have.
        commonest_opening_share: of the texts that are not blank.
        duplicates: share of the texts that are not blank and say what another one says.
        repetition: share of a text's 4-grams that stood in it before, averaged over texts that have any.
    """

    texts: int
    blank: int
    words: float
    distinct: dict[int, float | None]
    distinct_openings: float | None
    commonest_opening: str
    commonest_opening_share: float | None
    duplicates: float | None
    repetition: float | None


def measure_variety(texts: Sequence[str]) -> Variety:
    """Measures texts.

    Raises:
        ValueError: there are none.
    """
    if not texts:
        raise ValueError("there are no texts to measure")
    split = [text.lower().split() for text in texts]
    spoken = [words for words in split if words]
    openings = Counter(" ".join(words[:_OPENING_WORDS]) for words in spoken)
    (opening, most), *_ = openings.most_common(1) or [("", 0)]
    alike = Counter(tuple(words) for words in spoken)
    repeated = [1 - share for words in spoken if (share := _distinct([words], _REPEATED)) is not None]
    return Variety(
        texts=len(texts),
        blank=len(texts) - len(spoken),
        words=sum(map(len, split)) / len(texts),
        distinct={n: _distinct(spoken, n) for n in _DISTINCT},
        distinct_openings=_share(len(openings), len(spoken)),
        commonest_opening=opening,
        commonest_opening_share=_share(most, len(spoken)),
        duplicates=_share(sum(times for times in alike.values() if times > 1), len(spoken)),
        repetition=_share(sum(repeated), len(repeated)),
    )


def _distinct(texts: Sequence[list[str]], n: int) -> float | None:
    grams = [gram for words in texts for gram in _grams(words, n)]
    return _share(len(set(grams)), len(grams))


def _grams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[at:] for at in range(n)), strict=False)


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None

"""Length and variety of texts. They expose a model that gives the same happy sentence to every prompt.

Words are separated by whitespace, and compared in lower case.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.intervals import Change, change_of

_OPENING_WORDS = 4
_DISTINCT_NGRAMS = (1, 2, 3)
# Repetition of a text is measured by its 4-grams, as in Welleck et al. (2020), "Neural Text Generation with
# Unlikelihood Training".
_REPETITION_NGRAM = 4
_BLEU_NGRAMS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Variety:
    """Length and variety of a set of texts.

    Shares of openings and duplicates are over the texts that are not blank, and None where all are blank.

    Attributes:
        texts: number of texts.
        blank: number of texts without a word.
        words: mean number of words in a text.
        distinct: number of different n-grams over number of all n-grams in all texts, by n (distinct-n of Li et al.
            2016, "A Diversity-Promoting Objective Function for Neural Conversation Models"). It falls as texts grow in
            number and length, so compare it between models on the same prompts. None where no text has n words.
        distinct_openings: number of different openings (first four words), over number of texts.
        commonest_opening: opening that most texts have.
        commonest_opening_share: share of texts with that opening.
        duplicates: share of texts that are equal to another one.
        repetition: share of 4-grams that occur earlier in the same text, averaged over texts with four words or more;
            None where there are none.
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
    """Measures the length and variety of texts.

    Raises:
        ValueError: there are no texts.
    """
    if not texts:
        raise ValueError("there are no texts to measure")
    split = [text.lower().split() for text in texts]
    not_blank = [words for words in split if words]
    openings = Counter(" ".join(_opening(words)) for words in not_blank)
    (commonest, count), *_ = openings.most_common(1) or [("", 0)]
    copies = Counter(tuple(words) for words in not_blank)
    distinct_shares = (_distinct_share([words], _REPETITION_NGRAM) for words in not_blank)
    repetitions = [1 - share for share in distinct_shares if share is not None]
    return Variety(
        texts=len(texts),
        blank=len(texts) - len(not_blank),
        words=sum(map(len, split)) / len(texts),
        distinct={n: _distinct_share(not_blank, n) for n in _DISTINCT_NGRAMS},
        distinct_openings=_share(len(openings), len(not_blank)),
        commonest_opening=commonest,
        commonest_opening_share=_share(count, len(not_blank)),
        duplicates=_share(sum(times for times in copies.values() if times > 1), len(not_blank)),
        repetition=_share(sum(repetitions), len(repetitions)),
    )


def compare_distinct(first: Sequence[str], seconds: Sequence[Sequence[str]], n: int) -> Change | None:
    """Compares distinct-n of sets of texts, all written to the same prompts in the same order.

    The interval is a jackknife over prompts: all texts of a prompt are left out at once. Drawing prompts with
    replacement would not do, since a text that is drawn twice repeats itself.

    Args:
        first: texts of the model to compare with.
        seconds: texts of another model; or of several that are repetitions of one, which are compared by their mean.

    Returns:
        Mean distinct-n of the seconds less that of the first; None where one has no n-gram without some prompt.
    """
    split = ([list(_ngrams(text.lower().split(), n)) for text in texts] for texts in (first, *seconds))
    return _compare_distinct(*split)


def compare_openings(first: Sequence[str], seconds: Sequence[Sequence[str]]) -> Change | None:
    """Compares the share of different openings of sets of texts, as `compare_distinct` does."""
    openings = ([_opening(text.lower().split()) for text in texts] for texts in (first, *seconds))
    return _compare_distinct(*([[words] if words else [] for words in listed] for listed in openings))


def _opening(words: list[str]) -> tuple[str, ...]:
    return tuple(words[:_OPENING_WORDS])


def _compare_distinct(first: list[list[tuple[str, ...]]], *seconds: list[list[tuple[str, ...]]]) -> Change | None:
    values = list(zip(*map(_distinct_without_each, (first, *seconds)), strict=True))
    if len(values) < 3 or any(share is None for shares in values for share in shares):
        return None
    changes = [sum(share or 0.0 for share in others) / len(others) - (one or 0.0) for one, *others in values]
    value, *without = changes
    mean = sum(without) / len(without)
    error = math.sqrt((len(without) - 1) / len(without) * sum((each - mean) ** 2 for each in without))
    return change_of(value, error)


def _distinct_without_each(texts: list[list[tuple[str, ...]]]) -> list[float | None]:
    """Returns the share of different items among all items of all texts, and then the same without each text."""
    texts_with = Counter(item for items in texts for item in set(items))
    total = sum(map(len, texts))
    shares = [_share(len(texts_with), total)]
    for items in texts:
        alone = sum(texts_with[item] == 1 for item in set(items))
        shares.append(_share(len(texts_with) - alone, total - len(items)))
    return shares


def self_bleu(texts: Sequence[str]) -> float | None:
    """Returns the mean BLEU-4 of each text with all others as its references, 0 to 1; higher is less diverse.

    It is Self-BLEU of Zhu et al. (2018, "Texygen"), which grows with the number of texts, so compare it between equal
    numbers. An order of n-grams without a match counts as half a match (smoothing 1 of Chen and Cherry 2014 with 0.5).
    Texts of fewer than four words are left out.

    Returns:
        The mean; None where fewer than two texts have four words.
    """
    split = [words for text in texts if len(words := text.lower().split()) >= max(_BLEU_NGRAMS)]
    if len(split) < 2:
        return None
    logs = [0.0] * len(split)
    for n in _BLEU_NGRAMS:
        counts = [Counter(_ngrams(words, n)) for words in split]
        # The largest count in any other text is the largest of all texts, or the second where the text itself has it.
        largest: dict[tuple[str, ...], tuple[int, int, int]] = {}  # n-gram -> (count, its text, second largest count)
        for number, counter in enumerate(counts):
            for ngram, count in counter.items():
                first, holder, second = largest.get(ngram, (0, -1, 0))
                largest[ngram] = (count, number, first) if count > first else (first, holder, max(second, count))
        for number, counter in enumerate(counts):
            matches = 0
            for ngram, count in counter.items():
                first, holder, second = largest[ngram]
                matches += min(count, second if holder == number else first)
            logs[number] += math.log((matches or 0.5) / counter.total()) / len(_BLEU_NGRAMS)
    lengths = sorted(map(len, split))
    return sum(math.exp(log + _brevity(len(words), lengths)) for log, words in zip(logs, split, strict=True)) / len(
        logs
    )


def _brevity(length: int, lengths: list[int]) -> float:
    """Returns the logarithm of BLEU's brevity penalty: the nearest length of the other texts counts.

    Args:
        length: number of words of the text.
        lengths: numbers of words of all texts, in order; its own is one of them.
    """
    at = bisect_left(lengths, length)
    others = lengths[max(at - 1, 0) : at] + lengths[at + 1 : at + 2]
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return min(0.0, 1 - nearest / length)


def _distinct_share(texts: Sequence[list[str]], n: int) -> float | None:
    """Returns the number of different n-grams over the number of all n-grams, or None where there are none."""
    ngrams = [ngram for words in texts for ngram in _ngrams(words, n)]
    return _share(len(set(ngrams)), len(ngrams))


def _ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None

"""Checks of one text. Each is a function of texts alone, and takes less than a millisecond for a page.

refuses        an apology for not answering, or talk as an AI model
has_meta_talk  labels, announcements or closing remarks around the text
repetition     share of the text that it says twice
copied_share   share of the text that stands in another one
lost_numbers   numbers of a source that the text lacks
lost_names     names of a source that the text lacks
source_texts   the source of some of these checks
is_unsuitable  a word that is not for children (unsuitable_words.txt)
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from pipelines.recipes.meta_talk import strip_meta_talk

_REPETITION_WORDS, _COPY_WORDS = 4, 5
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

_NOT = r"(?:not able|unable|not comfortable|not allowed)"
_CANNOT = rf"(?:can ?not|can'?t|won'?t|am {_NOT}|'m {_NOT})"
_HELP = r"help(?! but| feel| thinking| myself| it\b)"  # "I can't help but smile" is no refusal
_TASK = rf"(?:access|answer|assist|browse|comply|continue|create|do that|fulfil|generate|{_HELP}|provide|write)"
# The words of a person in a story stand in quotation marks, and are no refusal.
_START = r'\A[^\w"\u201c]*'
# "As an AI, I ...", "I'm just a text-based AI", but no "AI engineer".
_AI = (
    r"an? (?:[\w-]+ ){0,2}(?:(?:language|ai) model\b|(?:ai|artificial intelligence|chatbot)"
    r"(?=\Z|[.,;:!?\n]| (?:and|assistant|designed|i|language|model|that)\b))"
)
_REFUSAL = re.compile(
    # "I'm sorry, but I can't help with that.", "Unfortunately, I am unable to ..."
    rf"{_START}(?:i(?:'m| am) )?(?:(?:so|very|truly) )?(?:sorry|afraid|unfortunately)\b[^.!?\n]{{0,60}}"
    rf"\bi ?{_CANNOT}\b(?! help (?:but|feel|think))"
    rf"|{_START}i ?{_CANNOT} (?:\w+ )?{_TASK}",
    re.IGNORECASE,
)
# "Sorry, as a language model ...", "I'm just an AI, ..."
_AI_SPEAKS = re.compile(rf"\b(?:as|i(?:'m| am)(?: just| only)?) {_AI}", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*")
_LIST_NUMBER = re.compile(r"(?<!\S)(\d{1,2})[.):](?=\s)")
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
# A capital letter after a word and not after the end of a sentence. `I` and its like are no names, nor "[Your Name]".
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b(?!(?: [A-Z]\w+)*\])")
# "Favorite Color: blue"
_LABEL = re.compile(r"^(?:[A-Z][\w'\u2019]* )*[A-Z][\w'\u2019]*:", re.MULTILINE)
_POSSESSIVE = re.compile(r"['\u2019]s\Z")


def source_texts(inputs: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Returns the texts of an input row that a rule compares with: those of the named fields, or all."""
    return [value for name in names or inputs if isinstance(value := inputs.get(name), str)]


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, without punctuation."""
    return [word.lower() for word in _WORD.findall(text)]


def refuses(text: str) -> bool:
    """Returns whether a text refuses to answer, or speaks as an AI model."""
    text = text.replace("\u2019", "'")
    return bool(_REFUSAL.search(strip_meta_talk(text)[0]) or _AI_SPEAKS.search(text))


def has_meta_talk(text: str) -> bool:
    """Returns whether there are labels, announcements or closing remarks around a text; quotation marks are none."""
    return any(character.isalpha() for character in strip_meta_talk(text)[1])


def repetition(text: str) -> float:
    """Returns the share of a text's sequences of 4 words that occur earlier in it, 0 to 1; 0 for a shorter text."""
    repeated, total = repeated_sequences(text)
    return repeated / total if total else 0.0


def repeated_sequences(text: str) -> tuple[int, int]:
    """Returns how many of a text's sequences of 4 words occur earlier in it, and how many it has."""
    sequences = list(_sequences(text.lower().split(), _REPETITION_WORDS))
    return len(sequences) - len(set(sequences)), len(sequences)


def copied_share(text: str, other: str) -> float:
    """Returns the share of a text's sequences of 5 words that stand in another text, 0 to 1; 0 for a shorter text."""
    copied, total = copied_sequences(text, other)
    return copied / total if total else 0.0


def copied_sequences(text: str, other: str) -> tuple[int, int]:
    """Returns how many of a text's sequences of 5 words stand in another text, and how many it has."""
    sequences, there = list(_sequences(words(text), _COPY_WORDS)), set(_sequences(words(other), _COPY_WORDS))
    return sum(sequence in there for sequence in sequences), len(sequences)


def lost_numbers(text: str, source: str) -> list[str]:
    """Returns the numbers of a source that a text lacks; up to twelve they may be words, and 1,000 may be 1000.

    The numbers of a list's items (1., 2., 3.) do not count.
    """
    there, present_words = set(map(_digits, _NUMBER.findall(text))), set(words(text))
    lost = []
    for number in dict.fromkeys(_NUMBER.findall(_without_list_numbers(source))):
        digits = _digits(number)
        value = int(digits) if digits.isdecimal() and len(digits) < 3 else len(_NUMBER_WORDS)
        has_word = value < len(_NUMBER_WORDS) and _NUMBER_WORDS[value] in present_words
        if digits not in there and not has_word:
            lost.append(number)
    return lost


def lost_names(text: str, source: str) -> list[str]:
    """Returns the names of a source that a text lacks: words with a capital letter inside a sentence."""
    there = {_POSSESSIVE.sub("", word) for word in words(text)}
    names = dict.fromkeys(_NAME.findall(_LABEL.sub("", source)))
    return [name for name in names if name.lower() not in there]


def is_unsuitable(text: str) -> bool:
    """Returns whether a text has a word that is not for children."""
    return not _unsuitable_words().isdisjoint(words(text))


@functools.cache
def _unsuitable_words() -> frozenset[str]:
    lines = (files("pipelines.quality_control") / "unsuitable_words.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def _sequences(text_words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(text_words[start:] for start in range(length)), strict=False)


def _without_list_numbers(source: str) -> str:
    """Returns a text without the numbers of lists' items, which count up from 1: `1.`, `2)`, `Day 3:`."""
    numbers = {int(found[1]) for found in _LIST_NUMBER.finditer(source)}
    last = next(number for number in range(len(numbers) + 1) if number + 1 not in numbers)
    return _LIST_NUMBER.sub(lambda found: "" if int(found[1]) <= last else found[0], source) if last > 1 else source


def _digits(number: str) -> str:
    """Returns a number without commas between thousands: `1000` of 1,000, and `2.5` as it is."""
    return re.sub(r",(?=\d{3}\b)", "", number)

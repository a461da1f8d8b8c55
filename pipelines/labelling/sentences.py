"""Cleans raw lines and splits them into sentences. Each rule that drops a line or a sentence has a name and a count."""

import html
import re
from collections import Counter
from collections.abc import Iterator

from sentencex import segment

from schemas.label import Segmentation

# Speaker at the start of a line, in child-directed speech (CHILDES) and telephone talk (Switchboard): *MOT:, CHI:, A:
_SPEAKER = re.compile(r"^\*?[A-Z][A-Z0-9]{0,4}:\s+")
# Sounds and gestures in a transcript: [laughs], &=coughs, 0 [=! nods].
_SOUND = re.compile(r"(?:(?<!\w)0\s*)?\[[^\][]{1,80}\]|(?<!\w)&[=~+-]\w+")
# Emphasis in plain-text books: _so_, *so*.
_EMPHASIS = re.compile(r"(?<!\w)([*_])(\S(?:[^*_\n]{0,200}\S)?)\1(?!\w)")
# Headings in books: CHAPTER IV., or "Act 2, scene 1". (Titles in Wikipedia stand between equals signs; see below.)
_HEADING = re.compile(
    r"^\W*(?i:chapter|book|part|volume|section|canto|act|scene|appendix)\s+(?:[IVXLC]+|[ivxlc]+|\d+)\b"
    r"(?:\W*$|\s*[.:,\u2013\u2014-].{0,60}$)"
)
_MARKUP = re.compile(r"https?://|www\.\w|</?\w[^<>]*>|\{\{|\}\}|\[\[|\]\]")
_ENDS_SENTENCE = re.compile(r"[.!?]\W*$")
# Number of characters searched at the end of a line: a search of a very long line would take quadratic time.
_END_CHARACTERS = 40

NOT_TEXT, LONG_LINE, BLANK, HEADING, MARKUP = "bytes are no text", "line too long", "blank", "heading", "markup"
NO_LETTERS, SHORT, LONG = "no letters", "too few words", "too many words"


class Segmenter:
    """Splits lines into sentences, and counts dropped lines and sentences.

    Attributes:
        dropped: number of dropped lines and sentences by rule.
    """

    def __init__(self, section: Segmentation, encoding: str) -> None:
        self._section, self._encoding = section, encoding
        self.dropped: Counter[str] = Counter()

    def sentences(self, line: bytes | None) -> Iterator[str]:
        """Yields the clean sentences of a line, in order; None stands for a line that was too long to read."""
        text = self._clean(line)
        for sentence in segment(self._section.language, text) if text else ():
            sentence = sentence.strip()
            if rule := self._fault(sentence):
                self.dropped[rule] += 1
            else:
                yield sentence

    def _clean(self, line: bytes | None) -> str:
        if line is None:
            return self._drop(LONG_LINE)
        try:
            text = html.unescape(line.decode(self._encoding)).removeprefix("\ufeff").strip()
        except UnicodeDecodeError:
            return self._drop(NOT_TEXT)
        if "\0" in text:
            return self._drop(NOT_TEXT)
        if _is_heading(text):
            return self._drop(HEADING)
        if "[[" not in text:
            text = _SOUND.sub(" ", text)
        text = " ".join(_EMPHASIS.sub(r"\2", _SPEAKER.sub("", text)).split())
        return text or self._drop(BLANK)

    def _drop(self, rule: str) -> str:
        self.dropped[rule] += 1
        return ""

    def _fault(self, sentence: str) -> str:
        words = len(sentence.split())
        if _MARKUP.search(sentence):
            return MARKUP
        if not any(character.isalpha() for character in sentence):
            return NO_LETTERS
        if words < self._section.min_words:
            return SHORT
        return LONG if words > self._section.max_words else ""


def _is_heading(text: str) -> bool:
    """Returns whether a line is a heading or a title in capitals; a shout in capitals ends with a punctuation mark."""
    if _HEADING.match(text) or (text.startswith("=") and text.endswith("=")):
        return True
    return text.isupper() and not _ENDS_SENTENCE.search(text[-_END_CHARACTERS:]) and not _SPEAKER.match(text)

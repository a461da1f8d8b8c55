"""Ends a request whose text will be rejected, as soon as its beginning shows it.

Invariant: a text is ended only where every text with this beginning would be rejected. What a recipe may still cut off
at the end (a closing remark), an unfinished word, and what the rest of the text could dilute do not count.
"""

import re
from dataclasses import dataclass

from pipelines.quality_control.emotion_words import names_emotion
from pipelines.quality_control.text_checks import (
    copied_sequences,
    has_meta_talk,
    is_unsuitable,
    refuses,
    repeated_sequences,
    words,
)
from pipelines.recipes.meta_talk import strip_meta_talk
from schemas.quality import Quality
from schemas.rows import Prompt, RowRejection
from services.replicas.row_records import Recipe

TOO_MANY_WORDS = "too_many_words"

# Lines that `pipelines.recipes.meta_talk` may cut off at the end of a text, or that may still become one of these.
_REMARK = re.compile(
    r"[^\S\n]*[*_(\[]*(?:note|explanation|word|i hope|let me|this|[^\W\d_]{0,5}\Z|i\b.{0,5}\Z)", re.IGNORECASE
)
_SENTENCE = re.compile(r".*[.!?\n]", re.DOTALL)
_UNFINISHED_WORD = re.compile(r"\S*\Z")
# A beginning that is quoted as a whole may become a person's speech in a longer text, which is no refusal.
_QUOTATION = re.compile('["\u201c]')
# Words after a label that make it sure that the label is not all there is.
_MIN_WORDS = 8
# One token holds two words at most: `e.g`.
_WORDS_PER_TOKEN = 2


@dataclass(frozen=True)
class EarlyStop:
    """Decides whether a request is ended; pickled to every replica, see `services.replicas.row_records.PrefixCheck`.

    Args:
        quality: section of the job.
    """

    quality: Quality

    def __call__(self, response: str, tokens_left: int, prompt: Prompt, recipe: Recipe) -> str:
        """Returns the name of the rule that will reject a response which begins like this; "" where none surely does.

        Args:
            response: beginning of the response.
            tokens_left: largest number of tokens that may follow.
            prompt: prompt that it answers.
            recipe: recipe that keeps the text.
        """
        rules, beginning = self.quality, _certain_part(response)
        if not beginning.strip():
            return ""
        try:
            text, talk = recipe.finish(beginning)
        except RowRejection as rejection:
            return TOO_MANY_WORDS if str(rejection) == TOO_MANY_WORDS else ""
        if talk and not text:
            return ""
        if rules.max_words is not None and len(words(text)) > rules.max_words:
            return TOO_MANY_WORDS
        sentences = _SENTENCE.match("" if _QUOTATION.search(beginning) else text)
        if rules.reject_refusals and sentences and refuses(sentences[0]):
            return "refusal"
        if rules.reject_meta_talk and has_meta_talk(text) and len(words(strip_meta_talk(text)[0])) >= _MIN_WORDS:
            return "meta_talk"
        if rules.reject_emotion_word and names_emotion(text, prompt.emotion):
            return "emotion_word"
        if rules.reject_unsuitable and is_unsuitable(text):
            return "unsuitable"
        # A share needs as many words as its limit of all that may be there in the end: before, nothing is counted.
        words_left, most = _WORDS_PER_TOKEN * tokens_left, max(len(text.split()), len(words(text)))
        if rules.max_repetition is not None and most > rules.max_repetition * (most + words_left):
            repeated, total = repeated_sequences(text)
            if repeated > rules.max_repetition * (total + words_left):
                return "repetition"
        if rules.max_copied is not None and most > rules.max_copied * (most + words_left):
            copied, total = copied_sequences(text, prompt.text)
            if copied > rules.max_copied * (total + words_left):
                return "copied"
        return ""


def _certain_part(response: str) -> str:
    """Returns the beginning of a response that no recipe cuts off at its end: whole words, and no closing remark."""
    lines = _UNFINISHED_WORD.sub("", response).split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or _REMARK.match(lines[-1])):
        lines.pop()
    return "\n".join(lines)

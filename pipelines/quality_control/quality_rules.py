"""The rules of a job's section `quality`, applied to each response beside its engine."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.quality_control.emotion_words import names_emotion
from pipelines.quality_control.text_checks import (
    copied_share,
    has_meta_talk,
    lost_names,
    lost_numbers,
    refuses,
    repetition,
    words,
)
from schemas.quality import Quality
from schemas.rows import Prompt


@dataclass(frozen=True)
class QualityRules:
    """The rules of a job; pickled to every replica, and called as `services.replicas.row_records.TextCheck`.

    Attributes:
        quality: section of the job.
    """

    quality: Quality

    def __call__(self, text: str, prompt: Prompt) -> str:
        """Returns the name of the first rule that rejects a text; "" where none does.

        Args:
            text: text that the recipe keeps of the response.
            prompt: prompt that it answers.
        """
        return next(self.reasons(text, prompt), "")

    def reasons(self, text: str, prompt: Prompt) -> Iterator[str]:
        """Yields the name of each rule that rejects a text, in the order in which the rules are tried."""
        rules = self.quality
        if rules.min_words is not None and len(words(text)) < rules.min_words:
            yield "too_few_words"
        if rules.max_words is not None and len(words(text)) > rules.max_words:
            yield "too_many_words"
        if rules.reject_refusals and refuses(text):
            yield "refusal"
        if rules.reject_meta_talk and has_meta_talk(text):
            yield "meta_talk"
        if rules.reject_emotion_word and names_emotion(text, prompt.emotion):
            yield "emotion_word"
        if rules.max_repetition is not None and repetition(text) > rules.max_repetition:
            yield "repetition"
        if rules.max_copied is not None and copied_share(text, prompt.text) > rules.max_copied:
            yield "copied"
        if rules.keep_numbers and lost_numbers(text, self._source(prompt)):
            yield "numbers_lost"
        if rules.keep_names and lost_names(text, self._source(prompt)):
            yield "names_lost"

    def _source(self, prompt: Prompt) -> str:
        names = self.quality.source or list(prompt.inputs)
        return "\n".join(value for name in names if isinstance(value := prompt.inputs.get(name), str))

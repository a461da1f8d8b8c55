"""The rules of a job's section `quality`, applied to each response beside its engine."""

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
        rules = self.quality
        if rules.min_words is not None and len(words(text)) < rules.min_words:
            return "too_few_words"
        if rules.max_words is not None and len(words(text)) > rules.max_words:
            return "too_many_words"
        if rules.reject_refusals and refuses(text):
            return "refusal"
        if rules.reject_meta_talk and has_meta_talk(text):
            return "meta_talk"
        if rules.reject_emotion_word and names_emotion(text, prompt.emotion):
            return "emotion_word"
        if rules.max_repetition is not None and repetition(text) > rules.max_repetition:
            return "repetition"
        if rules.max_copied is not None and copied_share(text, _prompt_text(prompt)) > rules.max_copied:
            return "copied"
        if rules.keep_numbers and lost_numbers(text, self._source(prompt)):
            return "numbers_lost"
        if rules.keep_names and lost_names(text, self._source(prompt)):
            return "names_lost"
        return ""

    def _source(self, prompt: Prompt) -> str:
        names = self.quality.source or list(prompt.inputs)
        return "\n".join(value for name in names if isinstance(value := prompt.inputs.get(name), str))


def _prompt_text(prompt: Prompt) -> str:
    return "\n".join(str(message["content"]) for message in prompt.messages)

"""The rules of a job's section `quality`, applied to each response beside its engine.

Invariant: a rule whose verdicts change gets a higher number in RULE_VERSIONS, so that no run is resumed by other rules.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.quality_control.emotion_words import names_emotion
from pipelines.quality_control.languages import is_in_other_language
from pipelines.quality_control.reference_files import read_reference_sets, reference_contents
from pipelines.quality_control.reference_sets import ReferenceSets
from pipelines.quality_control.text_checks import (
    copied_share,
    has_meta_talk,
    is_unsuitable,
    lost_names,
    lost_numbers,
    refuses,
    repetition,
    source_texts,
    words,
)
from pipelines.quality_control.user_check import UserCheck, read_user_check
from schemas.quality import Quality, rule_of_set
from schemas.rows import Prompt

# Versions of the rules, by their keys in the section `quality`; those above 1 are part of the run's identity.
RULE_VERSIONS = {
    "reject_truncated": 1,
    "min_words": 1,
    "max_words": 1,
    "reject_refusals": 2,  # speech in quotation marks no longer counts; "as a chatbot" does
    "reject_meta_talk": 1,
    "reject_emotion_word": 1,
    "max_repetition": 1,
    "max_copied": 1,
    "keep_numbers": 2,  # numbers of a list's items no longer count
    "keep_names": 2,  # labels no longer count, and a possessive keeps its name
    "language": 1,
    "reject_unsuitable": 1,
    "reference_sets": 1,
    "check": 1,
}
_SETS_KEY = "quality.reference_sets"


@dataclass(frozen=True)
class QualityRules:
    """The rules of a job; pickled to every replica, and called as `services.replicas.row_records.TextCheck`.

    Attributes:
        quality: section of the job.
        user_check: check of the job's own, where it names one.
        references: texts of the job's reference sets, where it names some.
    """

    quality: Quality
    user_check: UserCheck | None = None
    references: ReferenceSets | None = None

    @classmethod
    def of(cls, quality: Quality) -> "QualityRules | None":
        """Makes the rules of a job; None where it has none.

        Raises:
            JobError: the file of `quality.check`, or one of `quality.reference_sets`, cannot be used.
        """
        if not _keys_of_rules(quality):
            return None
        return cls(quality, read_user_check(quality), read_reference_sets(quality.reference_sets, _SETS_KEY))

    def facts(self) -> dict[str, str]:
        """Returns what identifies the rules besides the section itself: versions above 1, and content of files."""
        versions = {key: RULE_VERSIONS[key] for key in _keys_of_rules(self.quality) if RULE_VERSIONS[key] > 1}
        facts = {"rule_versions": ", ".join(f"{key} {version}" for key, version in versions.items())}
        facts["check_hash"] = self.user_check.hash if self.user_check else ""
        for name, content in reference_contents(self.quality.reference_sets, _SETS_KEY).items():
            facts[f"reference_contents.{name}"] = content
        return {name: fact for name, fact in facts.items() if fact}

    def __call__(self, text: str, prompt: Prompt) -> str:
        """Returns the name of the first rule that rejects a text; "" where none does.

        Args:
            text: text that the recipe keeps of the response.
            prompt: prompt that it answers.

        Raises:
            RowError: the user's check fails on the text.
        """
        return next(self.reasons(text, prompt), "")

    def reasons(self, text: str, prompt: Prompt) -> Iterator[str]:
        """Yields the name of each rule that rejects a text, in the order in which the rules are tried.

        Raises:
            RowError: the user's check fails on the text.
        """
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
        if rules.language is not None and is_in_other_language(text, words(text), rules.language):
            yield "wrong_language"
        if rules.reject_unsuitable and is_unsuitable(text):
            yield "unsuitable"
        if self.references is not None and (match := self.references.find(text)):
            yield rule_of_set(match[0])
        if self.user_check is not None and (reason := self.user_check(text, prompt.inputs)):
            yield f"check: {reason}"

    def _source(self, prompt: Prompt) -> str:
        return "\n".join(source_texts(prompt.inputs, self.quality.source))


def _keys_of_rules(quality: Quality) -> list[str]:
    return [key for key in RULE_VERSIONS if quality.is_set(key)]

"""The section `quality` of an augmentation job: rules that reject texts, whatever the recipe."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.job import Classifier, Pooling, Section, Url

Language = Literal["de", "en", "es", "fr", "it", "nl", "pl", "pt", "sv"]
"""languages that `quality.language` takes, by their ISO 639 codes"""


def _is_unset(value: Any) -> bool:
    return value in (None, False, [], {})


def rule_of_set(name: str) -> str:
    """Returns the rule that refuses texts with a text of a reference set: `contains_blimp`."""
    return f"contains_{name}"


def _rule(default: Any, **bounds: Any) -> Any:
    # Left out of records where it is not set, so that jobs keep the fingerprints that they had before the rule existed.
    return Field(default, exclude_if=_is_unset, **bounds)


class ExpressedEmotion(Section):
    """Check that a text expresses the emotion that its prompt asks for, by a classifier. Its score is a margin: the
    best score of a label that is asked for, less the best score of any other label, each 0.5 at the label's threshold.
    Rows whose prompt asks for no emotion are not checked."""

    short_key = "level"

    level: Literal["group", "emotion"] = "group"
    """labels that count as the one that is asked for: all of its group (positive, neutral or negative), or it alone"""
    min_margin: float = Field(0.0, ge=-1, le=1)
    """smallest margin of an accepted text; 0 asks that the best label of all is one that counts"""
    classifier: Classifier = Classifier()
    """classifier that finds the emotions of a text"""
    pooling: Pooling = "passages"
    """pieces of a text that are scored, and the way from their scores to its own: passages of at most 64 words and
    their mean; the text in one piece, cut at the classifier's `max_tokens` (`whole`); or its sentences, and for each
    label the mean of the three highest, the mean of all, or the highest"""


class Meaning(Section):
    """Check that a text keeps the meaning of its source: the cosine of their embeddings by a sentence encoder."""

    short_key = "encoder"

    min_similarity: float = Field(0.5, ge=-1, le=1)
    """smallest cosine of an accepted text"""
    source: list[str] = Field([])
    """fields of the input row that are the source; by default all its texts"""
    encoder: Url = "embedded"
    """`embedded` (the packaged sentence encoder), or the hub id or local folder of a Hugging Face encoder, whose hidden
    states are averaged"""


class Quality(Section):
    """Rules that reject texts, whatever the recipe. A text of blanks alone is always rejected (`empty_text`)."""

    reject_truncated: bool = _rule(False)
    """rejection (`cut_off`) of texts that `max_tokens` or the model's own limit cut off; by default they are accepted,
    and counted"""
    min_words: int | None = _rule(None, gt=0)
    """smallest number of words; a shorter text is rejected (`too_few_words`)"""
    max_words: int | None = _rule(None, gt=0)
    """largest number of words; a longer text is rejected (`too_many_words`)"""
    reject_refusals: bool = _rule(False)
    """rejection (`refusal`) of texts that begin with an apology for not answering, or speak as an AI model"""
    reject_meta_talk: bool = _rule(False)
    """rejection (`meta_talk`) of texts with labels, announcements or closing remarks around them; the recipe
    `alpaca_rewrite` cuts these off"""
    reject_emotion_word: bool = _rule(False)
    """rejection (`emotion_word`) of texts that name the emotion they are to express, in any form: *joy*, *joyful*"""
    max_repetition: float | None = _rule(None, ge=0, lt=1)
    """largest share of a text's sequences of 4 words that occur earlier in it; a text above it is rejected
    (`repetition`). Texts of people have some 0.02, a text that loops 0.5 and more"""
    max_copied: float | None = _rule(None, ge=0, lt=1)
    """largest share of a text's sequences of 5 words that stand in the prompt: in its examples, or in the text that is
    to be written anew; a text above it is rejected (`copied`)"""
    keep_numbers: bool = _rule(False)
    """rejection (`numbers_lost`) of texts that lack a number of the source"""
    keep_names: bool = _rule(False)
    """rejection (`names_lost`) of texts that lack a name of the source: a word with a capital letter that begins no
    sentence"""
    language: Language | None = _rule(None)
    """language that texts are to be in; a text that is plainly in another one, or in another script, is rejected
    (`wrong_language`)"""
    reject_unsuitable: bool = _rule(False)
    """rejection (`unsuitable`) of texts with an English word that is not for children: of violence, sex, drugs,
    gambling or bad language"""
    check: str | None = _rule(None, min_length=1)
    """Python file of your own with a function `check(text, inputs)`, which returns the reason to reject a text, or an
    empty text; a row is rejected as `check: REASON`, and one for which the function raises an exception is an error"""
    allow_code: bool = _rule(False)
    """permission to run the Python file that `quality.check` names, with all rights of the job"""
    source: list[str] = _rule([])
    """fields of the input row that are the source for `keep_numbers` and `keep_names`; by default all its texts"""
    reference_sets: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Url | Annotated[list[Url], Field(min_length=1)]
    ] = _rule({})
    """files with texts that no row may contain, by a name of your own: `{blimp: blimp/}`. A text is rejected
    (`contains_blimp`) that has 13 words in a row of one of them, or all words of one that has 5 to 12"""

    expressed_emotion: ExpressedEmotion | None = _rule(None)
    """rejection (`expressed_emotion`) of texts that do not express the emotion asked for, by a classifier"""
    meaning: Meaning | None = _rule(None)
    """rejection (`meaning`) of texts that say something else than their source, by a sentence encoder"""
    stop_early: bool = _rule(False)
    """end of a request as soon as the beginning of its text shows that a rule will reject it: many words, a refusal,
    a label, the emotion's word, a loop, a copy. The rejected text is what was written until then"""
    max_tries: int = Field(1, gt=0, le=100, exclude_if=lambda tries: tries == 1)
    """largest number of tries of a row: after each rejection it is generated again with a new seed. Tries that were not
    the last one of their row lie in `tries/`, each with its reason"""
    retry_prompts: list[str] = _rule([])
    """prompts for later tries: the job's own prompt makes the first two tries, and each of these the next two; the last
    one makes all further tries"""

    @property
    def has_scored_checks(self) -> bool:
        """True where texts are scored by a model beside the engine."""
        return self.expressed_emotion is not None or self.meaning is not None

    @model_validator(mode="after")
    def _check_words(self) -> "Quality":
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ValueError("quality.min_words is larger than quality.max_words")
        if self.retry_prompts and self.max_tries < 3:
            raise ValueError("quality.retry_prompts has no use with fewer than 3 quality.max_tries")
        if self.check is not None and not self.allow_code:
            raise ValueError(f"quality.check = {self.check} is code, which runs only with quality.allow_code: true")
        if self.allow_code and self.check is None:
            raise ValueError("quality.allow_code has no use without quality.check")
        if self.source and not (self.keep_numbers or self.keep_names):
            raise ValueError("quality.source has no use without quality.keep_numbers or quality.keep_names")
        return self

    def is_set(self, key: str) -> bool:
        """Returns whether a key has another value than its default."""
        return not _is_unset(getattr(self, key))


ALL_RULES = Quality(
    reject_truncated=True,
    reject_refusals=True,
    reject_meta_talk=True,
    reject_emotion_word=True,
    max_repetition=0.2,
    max_copied=0.5,
    keep_numbers=True,
    keep_names=True,
    language="en",
    reject_unsuitable=True,
)
"""all rules but those on the number of words and a check of one's own, for `kindling quality --rules all`"""

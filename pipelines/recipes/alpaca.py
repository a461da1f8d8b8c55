"""Alpaca rewrites: answers to instructions, written again with a positive emotion (the paper: 4.2, appendix B)."""

from typing import Any, Literal, Self

from pipelines.inputs.cells import first_label, labels_cell, text_cell, text_or_blank_cell
from pipelines.recipes.alpaca_cleaning import rejecting_rule, remove_empty_markers
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.meta_talk import strip_meta_talk
from pipelines.recipes.shipped_prompts import group_by_emotion, load_prompt, read_data
from schemas.augment import AugmentJob
from schemas.emotions import POSITIVE
from schemas.errors import JobError
from schemas.rows import Prompt, RowError, RowRejection

_VARIABLES = ("instruction", "input", "output", "emotion", "examples", "max_words")
# Every version of the paper's prompt asks for fewer words.
_MAX_WORDS = 100
_DRAWN_EMOTIONS = sorted(POSITIVE)


class AlpacaRewrite(JobRecipe):
    """Asks for `output`, the answer to `instruction` and `input` (may be blank), in new words that carry an emotion.

    A row is rejected before it is sent if a cleaning rule rejects it, if it is a near-duplicate of an earlier row by
    instruction and input, or if its emotion has no example. There are examples of the positive emotions, and of
    surprise, which the paper's own data has too.

    Args:
        prompt: v1, v2, v3, or a Jinja file. If it shows `max_words`, a text of that many words or more is rejected.
        emotion: source of a row's emotion. "given": its field `emotion`, a label, or a list of labels of which the
            first is asked for. "fitting": the same field, filled by a classifier
            (`pipelines.augmentation.fitting_emotions`). "drawn": a positive emotion, drawn by the row's seed.

    Raises:
        JobError: the prompt is missing or not valid Jinja, or uses a variable that this recipe does not give.
    """

    optional_fields = ("input",)
    rejects_near_duplicates = True
    takes_classifier = True

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job. The default prompt is v3.

        Raises:
            JobError: the prompt is unknown or not valid Jinja, or the job names both a classifier and a column of
                emotions.
        """
        is_given = "emotion" in job.input.columns
        if job.classifier and job.input.keep == "all":
            cause = "a column `emotion` of the input would be replaced by the emotion that the classifier picks"
            raise JobError("input.keep", "all", cause, "name the columns to keep")
        if job.classifier and (is_given or "emotion" in job.input.keep):
            raise JobError("classifier", job.classifier.id, "the rows have their emotions", "leave one of the two out")
        return cls(job.prompt or "v3", "given" if is_given else "fitting" if job.classifier else "drawn")

    def __init__(self, prompt: str, emotion: Literal["given", "fitting", "drawn"]) -> None:
        examples = read_data("alpaca_examples.jsonl")
        self._prompt = load_prompt(prompt, _VARIABLES, examples)
        self._examples = group_by_emotion(examples)
        self._has_emotion_field = emotion != "drawn"
        self._limits_words = "max_words" in self._prompt.variables
        self.fields = ("instruction", "input", "output", *(["emotion"] if emotion == "given" else []))
        self.prompt_id = f"alpaca_rewrite/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Renders a row's prompt; see `Recipe.render`."""
        instruction, input_text, output, labels = self._checked(values, seed)
        variables = {
            "instruction": instruction,
            "input": input_text,
            "output": output,
            "emotion": labels[0],
            "examples": self._examples[labels[0]],
            "max_words": _MAX_WORDS,
        }
        messages = self._prompt.messages(variables)
        return Prompt(messages, values, emotion=labels[0], emotions=labels)

    def comparison_texts(self, values: dict[str, Any]) -> tuple[str, str]:
        """Returns instruction and input; ("", "") for a row that is rejected anyway."""
        try:
            instruction, input_text, _, _ = self._checked(values, seed=0)
        except (RowError, RowRejection):
            return "", ""
        return instruction, input_text

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns the emotion, if the row has one: its examples come before the row's own instruction."""
        return first_label(values, "emotion") if self._has_emotion_field else ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """Strips talk around the text; see `Recipe.finish`."""
        kept, talk = strip_meta_talk(text)
        if self._limits_words and len(kept.split()) >= _MAX_WORDS:
            raise RowRejection("too_many_words")
        return kept, talk

    def _checked(self, values: dict[str, Any], seed: int) -> tuple[str, str, str, list[str]]:
        """Returns instruction, input, output and emotions of a row.

        Raises:
            RowError: a cell is not text, or an emotion is unknown.
            RowRejection: a cleaning rule rejects the row, or no example has its emotion.
        """
        instruction = text_cell(values, "instruction")
        input_text = remove_empty_markers(text_or_blank_cell(values, "input"))
        output = text_or_blank_cell(values, "output")
        if rule := rejecting_rule(instruction, input_text, output):
            raise RowRejection(rule)
        if self._has_emotion_field:
            labels = labels_cell(values, "emotion")
        else:
            labels = [_DRAWN_EMOTIONS[seed % len(_DRAWN_EMOTIONS)]]
        if labels[0] not in self._examples:
            raise RowRejection("emotion_not_positive")
        return instruction, input_text, output, labels

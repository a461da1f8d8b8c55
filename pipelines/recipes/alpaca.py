"""Alpaca rewrites: the answer of an instruction, said again with a positive emotion (the paper: 4.2, appendix B)."""

from typing import Any, Literal, Self

from pipelines.inputs.cells import labels_cell, text_cell, text_or_blank_cell
from pipelines.recipes.alpaca_cleaning import fault_of, without_markers
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.meta_talk import without_talk
from pipelines.recipes.shipped_prompts import by_emotion, load_prompt, read_data
from schemas.augment import AugmentJob
from schemas.emotions import POSITIVE
from schemas.errors import JobError
from schemas.rows import Prompt, RowError, RowRejection

_VARIABLES = ("instruction", "input", "output", "emotion", "examples", "max_words")
# Every version of the paper's prompt asks for fewer words than this.
_MAX_WORDS = 100
_DRAWN = sorted(POSITIVE)


class AlpacaRewrite(JobRecipe):
    """Asks for `output`, the answer to `instruction` and `input` (may be blank), in new words that carry an emotion.

    Rows that a cleaning rule refuses are rejected unsent, and so are those with an emotion that no example is of: the
    prompts rewrite for positive emotions, and for surprise, which the paper's own data has too. Rows are compared by
    instruction and input, and near-duplicates rejected.

    Args:
        prompt: v1, v2, v3, or a Jinja file. Where it shows `max_words`, a text of that many words is rejected.
        emotion: where a row's emotion comes from. given: its field `emotion` (a label, or a list of which the first is
            asked for); fitting: the same, picked by a classifier
            (`pipelines.augmentation.fitting_emotions`); drawn: one of the positive ones, by the row's seed.
    """

    optional = ("input",)
    compares = True
    takes_classifier = True

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job; without `prompt` it is v3.

        Raises:
            JobError: the prompt is unknown or not valid Jinja, or the job has both a classifier and the emotions.
        """
        is_given = "emotion" in job.input.columns
        if job.classifier and (is_given or "emotion" in job.input.keep):
            raise JobError("classifier", job.classifier.id, "the rows have their emotions", "leave one of the two out")
        return cls(job.prompt or "v3", "given" if is_given else "fitting" if job.classifier else "drawn")

    def __init__(self, prompt: str, emotion: Literal["given", "fitting", "drawn"]) -> None:
        examples = read_data("alpaca_examples.jsonl")
        self._prompt = load_prompt(prompt, _VARIABLES, examples)
        self._examples = by_emotion(examples)
        self._emotion_given = emotion != "drawn"
        self._short = "max_words" in self._prompt.variables
        self.fields = ("instruction", "input", "output", *(["emotion"] if emotion == "given" else []))
        self.prompt_id = f"alpaca_rewrite/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.replicas.row_records.Recipe`."""
        instruction, given, output, labels = self._checked(values, seed)
        variables = {
            "instruction": instruction,
            "input": given,
            "output": output,
            "emotion": labels[0],
            "examples": self._examples[labels[0]],
            "max_words": _MAX_WORDS,
        }
        text = self._prompt.render(variables)
        return Prompt([{"role": "user", "content": text}], values, emotion=labels[0], emotions=labels)

    def compared(self, values: dict[str, Any]) -> tuple[str, str]:
        """See `services.replicas.row_records.Recipe`."""
        try:
            instruction, given, _, _ = self._checked(values, seed=0)
        except (RowError, RowRejection):
            return "", ""
        return instruction, given

    def prefix(self, values: dict[str, Any]) -> str:
        """The emotion, where it is given: its examples stand before the row's own instruction."""
        labels = values.get("emotion") if self._emotion_given else ""
        return str(labels[0] if isinstance(labels, list) and labels else labels)

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """See `services.replicas.row_records.Recipe`."""
        kept, talk = without_talk(text)
        if not kept:
            raise RowRejection("empty_text")
        if self._short and len(kept.split()) >= _MAX_WORDS:
            raise RowRejection("too_many_words")
        return kept, talk

    def _checked(self, values: dict[str, Any], seed: int) -> tuple[str, str, str, list[str]]:
        """Instruction, input, output and emotions of a row that no rule refuses."""
        instruction = text_cell(values, "instruction")
        given = without_markers(text_or_blank_cell(values, "input"))
        output = text_or_blank_cell(values, "output")
        if fault := fault_of(instruction, given, output):
            raise RowRejection(fault)
        labels = labels_cell(values, "emotion") if self._emotion_given else [_DRAWN[seed % len(_DRAWN)]]
        if labels[0] not in self._examples:
            raise RowRejection("emotion_not_positive")
        return instruction, given, output, labels

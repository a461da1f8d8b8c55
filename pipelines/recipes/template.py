"""The user's own Jinja file over any columns; the model writes text, or what `sampling.structured_outputs` asks for."""

from typing import Any, Self

from pipelines.recipes.jinja_blanks import is_blank
from pipelines.recipes.jinja_prompt import JinjaPrompt
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.structured_text import check_structured_text, schema_text
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job import StructuredOutputs
from schemas.rows import Prompt, RowError

# Enough to tell values apart, without keeping a whole document.
_PREFIX_CHARACTERS = 200


class Template(JobRecipe):
    """Renders a Jinja file with the input columns as its variables, as one user message.

    A row with a null or blank cell is an error: its prompt would have a hole. The variables that the template itself
    tests or defaults (`{% if input %}`) may be blank, and need no column.

    Args:
        prompt: the Jinja file.
        structured: form that the engine makes the model follow. A text that does not follow it all the same (it was cut
            off) is rejected.

    Raises:
        JobError: the prompt is missing or not valid Jinja, or the schema is not a JSON schema.
    """

    takes_structured_outputs = True

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job.

        Raises:
            JobError: `prompt` is missing or not valid Jinja, or the schema is not a JSON schema.
        """
        if job.prompt is None:
            raise JobError("prompt", None, "the template recipe needs a Jinja file", "add `prompt: my_prompt.jinja`")
        return cls(job.prompt, job.sampling.structured_outputs)

    def __init__(self, prompt: str, structured: StructuredOutputs | None = None) -> None:
        self._structured = structured
        self._prompt = JinjaPrompt(prompt, schema_text(structured))
        self.prompt_id = f"template/{self._prompt.name}"
        self.prompt_hash, self.prompt_text = self._prompt.hash, self._prompt.text
        self.fields, self.optional_fields = self._prompt.variables, self._prompt.optional

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Renders a row's prompt; see `Recipe.render`."""
        for field in self.fields:
            value = values.get(field)
            if field not in self.optional_fields and is_blank(value):
                raise RowError(f"{field} is {'null' if value is None else 'blank'}")
        messages = self._prompt.messages(values)
        return Prompt(messages, values)

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns the value that comes first in the template: before it all prompts are alike."""
        first = self._prompt.first_variable
        return str(values.get(first))[:_PREFIX_CHARACTERS] if first else ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """Keeps the text unchanged; rejects one that does not follow the job's form. See `Recipe.finish`."""
        check_structured_text(text, cut_off, self._structured)
        return text, ""

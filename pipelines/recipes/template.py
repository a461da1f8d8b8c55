"""The user's own Jinja file over any columns; the model writes text, or JSON that follows a schema."""

import json
from typing import Any, Self

from pipelines.recipes.jinja_blanks import is_blank
from pipelines.recipes.jinja_prompt import JinjaPrompt
from pipelines.recipes.job_recipe import JobRecipe
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.rows import Prompt, RowError, RowRejection
from schemas.text import shorten

# Enough to tell values apart, without keeping a whole document.
_PREFIX_CHARACTERS = 200


class Template(JobRecipe):
    """Renders a Jinja file with the input columns as its variables, as one user message.

    A row with a null or blank cell is an error: its prompt would have a hole. The variables that the template itself
    tests or defaults (`{% if input %}`) may be blank, and need no column.

    Args:
        prompt: the Jinja file.
        schema: JSON schema that the engine makes the model follow. A text that is not JSON all the same (it was cut
            off) is rejected.

    Raises:
        JobError: the prompt is missing or not valid Jinja, or the schema is not a JSON schema.
    """

    takes_schema = True

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job.

        Raises:
            JobError: `prompt` is missing or not valid Jinja, or the schema is not a JSON schema.
        """
        if job.prompt is None:
            raise JobError("prompt", None, "the template recipe needs a Jinja file", "add `prompt: my_prompt.jinja`")
        structured = job.sampling.structured_outputs
        return cls(job.prompt, structured["json"] if structured else None)

    def __init__(self, prompt: str, schema: dict[str, Any] | None = None) -> None:
        self._is_structured = schema is not None
        if schema is not None:
            _check_schema(schema)
        # The model writes keys in the order of the schema. The fingerprint sorts keys, so the prompt's hash has them.
        self._prompt = JinjaPrompt(prompt, json.dumps(schema) if self._is_structured else "")
        self.prompt_id = f"template/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash
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
        """Keeps the text unchanged; rejects a structured one that is not JSON. See `Recipe.finish`."""
        if self._is_structured:
            if cut_off:
                raise RowRejection("cut_off")
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                raise RowRejection("not_json") from None
        return text, ""


def _check_schema(schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        key = ".".join(["sampling.structured_outputs.json", *map(str, error.absolute_path)])
        cause = f"not a valid JSON schema: {shorten(error.message)}"
        raise JobError(key, None, cause, "correct it; the keywords are those of JSON Schema 2020-12") from None

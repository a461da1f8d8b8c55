"""The user's own Jinja file over any columns; what the model writes is text, or JSON that follows a schema."""

import json
from typing import Any, Self

from pipelines.recipes.jinja_prompt import JinjaPrompt
from pipelines.recipes.job_recipe import JobRecipe
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.rows import Prompt, RowError, RowRejection
from schemas.text import shorten

# Enough to tell values apart; a whole document need not be kept for it.
_PREFIX_CHARACTERS = 200


class Template(JobRecipe):
    """Renders a Jinja file with the input columns as its variables, as one user message.

    A null or blank cell is a fault of its row: a prompt with a hole in it is not what anybody asked for.

    Args:
        prompt: the Jinja file.
        schema: the JSON schema that the engine holds the model to; a text that is no JSON all the same is rejected.

    Raises:
        JobError: there is no such prompt, it is no valid Jinja, or the schema is no JSON schema.
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
        self._structured = schema is not None
        if schema is not None:
            _check_schema(schema)
        # The order of its keys counts, which the job's own identity does not tell: the model writes them in it.
        self._prompt = JinjaPrompt(prompt, json.dumps(schema) if self._structured else "")
        self.prompt_id = f"template/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash
        self.fields = self._prompt.variables

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.replicas.row_records.Recipe`."""
        for field in self.fields:
            value = values.get(field)
            if value is None:
                raise RowError(f"{field} is null")
            if isinstance(value, str) and not value.strip():
                raise RowError(f"{field} is blank")
        text = self._prompt.render(values)
        return Prompt([{"role": "user", "content": text}], values)

    def prefix(self, values: dict[str, Any]) -> str:
        """The value that stands first in the template: up to there all prompts are alike."""
        first = self._prompt.first_variable
        return str(values.get(first))[:_PREFIX_CHARACTERS] if first else ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """See `services.replicas.row_records.Recipe`."""
        if self._structured:
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

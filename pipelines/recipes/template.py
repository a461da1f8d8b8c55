"""The user's own Jinja file over any columns."""

from typing import Any

from pipelines.recipes.jinja import JinjaPrompt
from schemas.rows import Prompt, RowError
from services.records import Recipe

# Enough to tell values apart; a whole document need not be kept for it.
_PREFIX_CHARACTERS = 200


class Template(Recipe):
    """Renders a Jinja file with the input columns as its variables, as one user message.

    A null or blank cell is a fault of its row: a prompt with a hole in it is not what anybody asked for.
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = JinjaPrompt(prompt)
        self.prompt_id = f"template/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash
        self.fields = self._prompt.variables

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.records.Recipe`."""
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

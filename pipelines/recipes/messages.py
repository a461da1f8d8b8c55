"""A column of chat messages, sent unchanged."""

import hashlib
from typing import Any, Self

from pipelines.inputs.conversations import messages_cell
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.structured_text import check_structured_text, schema_text
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job import StructuredOutputs
from schemas.rows import Prompt, RowError


class Messages(JobRecipe):
    """Sends the column `messages`: a list of `{"role", "content"}`, as in chat datasets on the hub.

    Args:
        structured: form that the engine makes the model follow; see `Template`.

    Raises:
        JobError: the schema is not a JSON schema.
    """

    takes_structured_outputs = True
    prompt_id = "messages"
    fields = ("messages",)

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job.

        Raises:
            JobError: the job has a prompt, or the schema is not a JSON schema.
        """
        if job.prompt is not None:
            raise JobError("prompt", job.prompt, "the messages recipe takes no prompt", "leave the key out")
        return cls(job.sampling.structured_outputs)

    def __init__(self, structured: StructuredOutputs | None = None) -> None:
        self._structured = structured
        self.prompt_hash = hashlib.sha256(f"messages{schema_text(structured)}".encode()).hexdigest()[:16]

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Returns the row's messages as its prompt; see `Recipe.render`."""
        messages = messages_cell(values, "messages")
        if messages[-1]["role"] == "assistant":
            raise RowError("the last message is the assistant's: there is nothing to answer")
        return Prompt(messages, values)

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns the system message, if there is one: different chats may share it."""
        messages = values.get("messages")
        first = messages[0] if isinstance(messages, list) and messages else None
        return str(first.get("content")) if isinstance(first, dict) and first.get("role") == "system" else ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """Keeps the text unchanged; rejects one that does not follow the job's form. See `Recipe.finish`."""
        check_structured_text(text, cut_off, self._structured)
        return text, ""

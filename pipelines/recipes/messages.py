"""A column of chat messages, taken as they stand."""

import hashlib
from typing import Any

from pipelines.inputs.cells import messages_cell
from schemas.rows import Prompt, RowError
from services.replicas.row_records import Recipe


class Messages(Recipe):
    """Sends the column `messages`: a list of `{"role", "content"}`, as chat datasets on the hub have it."""

    prompt_id = "messages"
    prompt_hash = hashlib.sha256(b"messages").hexdigest()[:16]
    fields = ("messages",)

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.replicas.row_records.Recipe`."""
        messages = messages_cell(values, "messages")
        if messages[-1]["role"] == "assistant":
            raise RowError("the last message is the assistant's: there is nothing to answer")
        return Prompt(messages, values)

    def prefix(self, values: dict[str, Any]) -> str:
        """The system message, where there is one."""
        messages = values.get("messages")
        first = messages[0] if isinstance(messages, list) and messages else None
        return str(first.get("content")) if isinstance(first, dict) and first.get("role") == "system" else ""

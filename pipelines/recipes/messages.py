"""A column of chat messages, taken as they stand."""

import hashlib
from typing import Any

from pipelines.recipes.cells import text_cell
from schemas.errors import shorten
from schemas.rows import Prompt, RowError
from services.records import Recipe

_ROLES = ("system", "user", "assistant", "tool")


class Messages(Recipe):
    """Sends the column `messages`: a list of `{"role", "content"}`, as chat datasets on the hub have it."""

    prompt_id = "messages"
    prompt_hash = hashlib.sha256(b"messages").hexdigest()[:16]
    fields = ("messages",)

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.records.Recipe`."""
        messages = values.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RowError("messages is not a list of chat messages")
        for number, message in enumerate(messages):
            if not isinstance(message, dict):
                raise RowError(f"message {number} is {type(message).__name__}, not an object with role and content")
            if message.get("role") not in _ROLES:
                role = shorten(repr(message.get("role")))
                raise RowError(f"message {number} has the role {role}, not one of {', '.join(_ROLES)}")
            text_cell(message, "content")
        if messages[-1]["role"] == "assistant":
            raise RowError("the last message is the assistant's: there is nothing to answer")
        return Prompt([{"role": m["role"], "content": m["content"]} for m in messages], values)

    def prefix(self, values: dict[str, Any]) -> str:
        """The system message, where there is one."""
        messages = values.get("messages")
        first = messages[0] if isinstance(messages, list) and messages else None
        return str(first.get("content")) if isinstance(first, dict) and first.get("role") == "system" else ""

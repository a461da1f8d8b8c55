"""Checks of chat conversations: messages with their tool calls, and the tools that may be called."""

import json
from typing import Any

from pipelines.inputs.cells import text_cell, text_or_blank_cell
from schemas.rows import RowError
from schemas.text import shorten

_ROLES = ("system", "user", "assistant", "tool")

# As deep as the values of an input row may be; JSON that comes as text is bounded here.
_MAX_NESTING = 64


def messages_cell(values: dict[str, Any], field: str) -> list[dict[str, str]]:
    """Returns the field's chat messages, each with its role and content and no other key.

    Raises:
        RowError: the cell is not a list of messages, a role is unknown, a content is not text, or a message calls a
            tool.
    """
    messages = conversation_cell(values, field)
    for number, message in enumerate(messages):
        if "tool_calls" in message:
            raise RowError(f"message {number} has tool_calls, which are read for training alone")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def conversation_cell(values: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """Returns the field's chat messages with all their keys, as a chat template takes them.

    Null values are left out (a table has every key in each message). A content in parts becomes one text. The arguments
    of a tool call, which many files have as JSON in a text, become an object.

    Raises:
        RowError: the cell is not a list of messages, a role is unknown, a content is not text, or a tool call has no
            name or no JSON.
    """
    messages = values.get(field)
    if not isinstance(messages, list) or not messages:
        raise RowError(f"{field} is not a list of chat messages")
    kept = [message for number, each in enumerate(messages) if (message := _message(number, each))]
    if not kept:
        raise RowError(f"{field} has no message but a blank system message")
    return kept


def _message(number: int, message: Any) -> dict[str, Any]:
    """Returns a message; an empty dict for a blank system message, which says nothing, and which many files have."""
    if not isinstance(message, dict):
        raise RowError(f"message {number} is {type(message).__name__}, not an object with role and content")
    if message.get("role") not in _ROLES:
        role = shorten(repr(message.get("role")))
        raise RowError(f"message {number} has the role {role}, not one of {', '.join(_ROLES)}")
    message = _json(message, f"message {number}")
    if isinstance(message.get("content"), list):
        message["content"] = _joined_parts(number, message["content"])
    if calls := message.pop("tool_calls", None):
        content = text_or_blank_cell(message, "content") and message["content"]
        return {**message, "content": content or None, "tool_calls": _tool_calls(number, calls)}
    if message["role"] == "tool" and message.get("content") == "":
        return message  # a tool may have nothing to say
    if message["role"] == "system" and not text_or_blank_cell(message, "content"):
        return {}
    try:
        return {**message, "content": text_cell(message, "content")}
    except RowError as error:
        raise RowError(f"message {number}: {error}") from None


def _joined_parts(number: int, parts: list[Any]) -> str:
    """Joins the parts of a content by line ends, as vLLM does."""
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise RowError(f"message {number} has a part of the type {shorten(repr(kind))}, and only text is read")
    return "\n".join(part["text"] for part in parts)


def _tool_calls(number: int, calls: Any) -> list[dict[str, Any]]:
    parsed = []
    for call in calls if isinstance(calls, list) else [calls]:
        call = call if isinstance(call, dict) and "function" in call else {"function": call}
        function = call["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise RowError(f"message {number} has a tool call without the name of a function")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                raise RowError(f"message {number} has a tool call whose arguments are not JSON") from None
            arguments = _json(arguments, f"message {number}: the arguments of a tool call")
        parsed.append({"type": "function", **call, "function": {**function, "arguments": arguments}})
    return parsed


def tools_cell(values: dict[str, Any], field: str) -> list[dict[str, Any]] | None:
    """Returns the tools of a conversation, a list of JSON schemas or the same as JSON text; None where there are none.

    Raises:
        RowError: the cell holds something else.
    """
    tools = values.get(field)
    if isinstance(tools, str):
        try:
            tools = json.loads(tools or "[]")
        except (ValueError, RecursionError):
            raise RowError(f"{field} is not JSON") from None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(f"{field} is not a list of tools")
    if not all(isinstance(tool.get("function", tool), dict) for tool in tools):
        raise RowError(f"{field} has a tool whose function is not an object")
    return _json(tools, field)


def _json(value: Any, name: str) -> Any:
    """Returns a JSON value without its null values.

    Raises:
        RowError: the value is not JSON, nested too deeply, or not valid Unicode.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowError(f"{name} is not valid Unicode") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"{name} is not JSON: {shorten(str(error))}") from None
    return _without_nulls(value, name)


def _without_nulls(value: Any, name: str, depth: int = 0) -> Any:
    if depth > _MAX_NESTING:
        raise RowError(f"{name} is nested more than {_MAX_NESTING} deep")
    if isinstance(value, dict):
        return {key: _without_nulls(item, name, depth + 1) for key, item in value.items() if item is not None}
    return [_without_nulls(item, name, depth + 1) for item in value] if isinstance(value, list) else value

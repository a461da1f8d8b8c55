"""Rows that training examples are made of: documents, prompts with completions, conversations."""

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""one turn of a conversation: `{"role", "content"}`, and what else the chat template reads (`tool_calls`, `name`)"""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """Text that examples are made of: a document, or a completion with its prompt.

    Attributes:
        text: document, or completion, which is the last turn of the assistant.
        prompt: text or conversation that comes before the completion; None for a document.
        input_row: number of the input row. Examples of one input row are not independent of each other.
        is_held_out: True where the row is kept from training.
        place: name of the input row in reports.
        tool_calls: calls of tools in the last turn of the assistant, as chat templates take them.
        tools: JSON schemas of the tools that a conversation may call; None where there are none.
    """

    text: str
    prompt: str | list[Message] | None = None
    input_row: int = 0
    is_held_out: bool = False
    place: str = ""
    tool_calls: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


def turns_of(row: TrainingRow, end: str) -> list[Message]:
    """Returns all turns of a conversation.

    An end-of-text token behind the last one is left out, as in TRL: the turn ends with one anyway.
    """
    before = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt or []
    answer: Message = {"role": "assistant", "content": row.text.removesuffix(end)}
    if row.tool_calls:
        answer = {"role": "assistant", "content": row.text or None, "tool_calls": row.tool_calls}
    return [*before, answer]


def missing_tools(turns: list[Message], tools: Any, rendered: list[tuple[str, str]]) -> str:
    """Returns which tools or tool calls a rendered conversation lacks; many chat templates know none of them."""
    answers = (turn for turn in turns if turn["role"] == "assistant")
    for turn, (_, text) in zip(answers, rendered, strict=True):
        for call in turn.get("tool_calls", ()):
            if (name := call["function"]["name"]) not in text:
                return f"the call of {name}"
    for tool in tools or ():
        name = str(tool.get("function", tool).get("name", ""))
        if name not in rendered[0][0]:
            return f"the tool {name}"
    return ""

"""Formats of an export that trainers read: messages, alpaca, prompt-completion.

Shards hold no prompts. They are rendered again, by the recipe and the row's own seed; a prompt file that changed since
is refused.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.inputs.cells import text_cell, text_or_blank_cell
from pipelines.recipes import recipes_of_run
from schemas.errors import JobError, RunError
from schemas.rows import RowError, RowRejection
from schemas.run import RunRecord
from services.replicas.row_records import Recipe

_INSTRUCTION, _INPUT = "instruction", "input"
_TEXT = pa.string()
_MESSAGES = pa.list_(pa.struct([pa.field("role", _TEXT), pa.field("content", _TEXT)]))


def _field(name: str, meaning: str, type_: pa.DataType = _TEXT) -> pa.Field:
    return pa.field(name, type_, metadata={"description": meaning})


_SENT = "prompt as it was sent to the model"
_ANSWER = "text that the recipe kept of the response"
CHAT_FORMATS = {
    "messages": [_field("messages", "messages of the prompt, and the text as the assistant's turn", _MESSAGES)],
    "alpaca": [
        _field(_INSTRUCTION, "`instruction` of the input row; where it has none, the prompt"),
        _field(_INPUT, "`input` of the input row; empty where it has none"),
        _field("output", _ANSWER),
    ],
    "prompt-completion": [_field("prompt", _SENT), _field("completion", _ANSWER)],
}
"""columns of each format"""


class ChatFormat:
    """Makes the columns of a format from rows of a run.

    Args:
        name: a key of CHAT_FORMATS.
        run: record of the run.
    """

    def __init__(self, name: str, run: RunRecord) -> None:
        self._name, self._run = name, run
        self._values = _VALUES[name]

    def values(self, row: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns the values of the format's columns.

        Args:
            row: an accepted row, with all its columns.
            inputs: its column `inputs`, parsed.

        Raises:
            JobError: the format cannot hold the row's prompt.
            RunError: the prompt cannot be made again.
        """
        return self._values(self, row, inputs)

    def _conversation(self, row: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        messages = self._prompt(row, inputs)
        if any(message.keys() - {"role", "content"} for message in messages):
            remedy = "export the columns: --columns inputs,text; `kindling train` reads the run itself"
            raise JobError("--format", self._name, f"{_place(row)} has more than roles and contents", remedy)
        return {"messages": [*messages, {"role": "assistant", "content": row["text"]}]}

    def _alpaca(self, row: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        if _INSTRUCTION not in inputs:
            return {_INSTRUCTION: self._single_prompt(row, inputs), _INPUT: "", "output": row["text"]}
        try:
            instruction, input_text = text_cell(inputs, _INSTRUCTION), text_or_blank_cell(inputs, _INPUT)
        except RowError as error:
            remedy = "export it as messages or prompt-completion"
            raise JobError("--format", self._name, f"{_place(row)}: {error}", remedy) from None
        return {_INSTRUCTION: instruction, _INPUT: input_text, "output": row["text"]}

    def _pair(self, row: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": self._single_prompt(row, inputs), "completion": row["text"]}

    def _single_prompt(self, row: dict[str, Any], inputs: dict[str, Any]) -> str:
        messages = self._prompt(row, inputs)
        if [message["role"] for message in messages] != ["user"]:
            cause = f"the prompt of {_place(row)} has a system message or several turns, which one text cannot hold"
            raise JobError("--format", self._name, cause, "take --format messages")
        return messages[0]["content"]

    def _prompt(self, row: dict[str, Any], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Renders the messages that were sent to the model."""
        recipe = self._recipes[row["variant"]]
        if recipe.prompt_hash != row["prompt_hash"]:
            cause = f"{_place(row)} was made with another version of the prompt {row['prompt_id']}"
            raise RunError("--format", self._name, cause, f"put the old prompt file back, or {_WITHOUT_PROMPTS}")
        try:
            return recipe.render(inputs, row["seed"]).messages
        except (RowError, RowRejection) as error:  # a value that JSON does not hold, such as a date
            raise RunError(
                "--format", self._name, f"the prompt of {_place(row)} cannot be made again: {error}", _WITHOUT_PROMPTS
            ) from None

    @cached_property
    def _recipes(self) -> dict[str, Recipe]:
        try:
            return recipes_of_run(self._run.job)
        except JobError as error:
            cause = f"the prompts of the run cannot be made again: {error.key}: {error.cause}"
            remedy = f"run it in the folder where the job ran, with its prompt files; or {_WITHOUT_PROMPTS}"
            raise RunError("--format", self._name, cause, remedy) from None


_WITHOUT_PROMPTS = "export the columns without prompts: --columns text,inputs"

_VALUES: dict[str, Callable[[ChatFormat, dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "messages": ChatFormat._conversation,
    "alpaca": ChatFormat._alpaca,
    "prompt-completion": ChatFormat._pair,
}


def _place(row: dict[str, Any]) -> str:
    return f"row {row['row_index']} of {row['source']}"

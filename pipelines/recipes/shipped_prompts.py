"""The data that shipped prompts show, and the variables that a recipe's prompt may use."""

import json
from collections.abc import Iterable
from pathlib import Path

from pipelines.recipes.jinja_prompt import JinjaPrompt
from schemas.errors import JobError

_FOLDER = Path(__file__).parent / "prompts"


def read_data(name: str) -> str:
    """Returns the text of a data file of the shipped prompts."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def group_by_emotion(lines: str) -> dict[str, list[dict[str, str]]]:
    """Parses examples in JSON Lines, and groups them by their emotion, in their order."""
    examples: dict[str, list[dict[str, str]]] = {}
    for line in lines.splitlines():
        example = json.loads(line)
        examples.setdefault(example["emotion"], []).append(example)
    return examples


def load_prompt(prompt: str, variables: Iterable[str], data: str) -> JinjaPrompt:
    """Loads the prompt of a recipe that gives it certain variables.

    Args:
        prompt: name of a shipped prompt, or path of a Jinja file.
        variables: names of the variables that the recipe gives.
        data: all that the prompt may show besides its row; it goes into the prompt's hash.

    Raises:
        JobError: the prompt is missing or not valid Jinja, or it uses another variable.
    """
    loaded = JinjaPrompt(prompt, data)
    if unknown := set(loaded.variables) - set(variables):
        raise JobError(
            "prompt", prompt, f"it uses {', '.join(sorted(unknown))}, which this recipe does not give",
            f"the variables are {', '.join(sorted(variables))}; the template recipe takes any columns",
        )  # fmt: skip
    return loaded

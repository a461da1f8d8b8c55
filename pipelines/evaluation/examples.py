"""Some prompts of an evaluation with the responses of all models, side by side on its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.pages.markdown import escaped

_MAX_EXAMPLES = 6
_MAX_CHARACTERS = 500


@dataclass(frozen=True)
class Example:
    """A prompt, "" where it is not known, and the response of one model; None where there is none."""

    prompt: str
    response: str | None


def choose_examples(prompts: Sequence[str | None], responses: Sequence[str | None]) -> list[Example]:
    """Takes a few prompts, spread evenly over all, with their responses; the same for each model of a job."""
    count = min(len(prompts), _MAX_EXAMPLES)
    numbers = [number * len(prompts) // count for number in range(count)]
    return [Example(prompts[number] or "", responses[number]) for number in numbers]


def example_lines(evaluation: str, examples: Mapping[str, Sequence[Example]]) -> list[str]:
    """Returns the Markdown of a table with a row for each prompt and a column for each model; none without examples."""
    rows = [[row[0].prompt, *(example.response for example in row)] for row in zip(*examples.values(), strict=True)]
    if not rows:
        return []
    header = ["Prompt", *examples]
    lines = [f"| {' | '.join(map(_cell, cells))} |" for cells in (header, *rows)]
    lines.insert(1, "|" + " --- |" * len(header))
    note = f"A few of the prompts, spread evenly. Long texts are cut here; `results/{evaluation}/` has all of them."
    return [f"## Responses to the prompts of {evaluation}", "", *lines, "", note, ""]


def _cell(text: str | None) -> str:
    if text is None:
        return "(no response)"
    cut = f"{text[:_MAX_CHARACTERS]}..." if len(text) > _MAX_CHARACTERS else text
    return escaped(cut) if cut.strip() else "(blank)"

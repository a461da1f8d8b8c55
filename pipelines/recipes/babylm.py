"""BabyLM stories: a children's story that deepens the emotion of a sentence (the paper: section 4.1, appendix A)."""

import json
from pathlib import Path
from typing import Any

from pipelines.recipes.cells import text_cell
from pipelines.recipes.jinja import JinjaPrompt
from schemas.emotions import EMOTIONS
from schemas.errors import JobError, shorten
from schemas.rows import Prompt, RowError

_VARIABLES = {"context", "emotion", "examples"}
_EXAMPLES_FILE = Path(__file__).parent / "prompts" / "babylm_examples.jsonl"


class BabylmStory:
    """Asks for a story from `context` and `emotion` (a label, or a list of them).

    Of several labels the first is asked for, and the row keeps them all. The prompt shows the two examples of that
    emotion and no others.
    """

    fields = ("context", "emotion")

    def __init__(self, prompt: str) -> None:
        examples = _EXAMPLES_FILE.read_text(encoding="utf-8")
        self._prompt = JinjaPrompt(prompt, examples)
        if unknown := set(self._prompt.variables) - _VARIABLES:
            raise JobError(
                "prompt", prompt, f"it uses {', '.join(sorted(unknown))}, which this recipe does not give",
                f"the variables are {', '.join(sorted(_VARIABLES))}; the template recipe takes any columns",
            )  # fmt: skip
        self._examples: dict[str, list[dict[str, str]]] = {}
        for line in examples.splitlines():
            example = json.loads(line)
            self._examples.setdefault(example["emotion"], []).append(example)
        self.prompt_id = f"babylm_story/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any]) -> Prompt:
        """See `services.records.Recipe`."""
        context = text_cell(values, "context")
        labels = values.get("emotion")
        labels = labels if isinstance(labels, list) else [text_cell(values, "emotion")]
        if not labels:
            raise RowError("emotion has no label")
        for label in labels:
            if label not in EMOTIONS:
                raise RowError(f"emotion {shorten(repr(label))} is not one of the 28 GoEmotions labels")
        examples = self._examples[labels[0]]
        text = self._prompt.render({"context": context, "emotion": labels[0], "examples": examples})
        return Prompt([{"role": "user", "content": text}], values, emotion=labels[0], emotions=labels)

    def prefix(self, values: dict[str, Any]) -> str:
        """The emotion asked for: its examples stand before the row's own sentence."""
        labels = values.get("emotion")
        return str(labels[0] if isinstance(labels, list) and labels else labels)

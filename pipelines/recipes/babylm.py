"""BabyLM stories: a children's story that deepens the emotion of a sentence (the paper: section 4.1, appendix A)."""

import json
from typing import Any, Self

from pipelines.inputs.cells import labels_cell, text_cell
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.shipped_prompts import by_emotion, load_prompt, read_data
from schemas.augment import AugmentJob
from schemas.rows import Prompt

_VARIABLES = ("context", "emotion", "examples", "fixed_examples", "genre", "character")
# Of these emotions p1 and p2 show an example each, whatever emotion they ask for.
_FIXED = ("joy", "anger")


class BabylmStory(JobRecipe):
    """Asks for a story from `context` and `emotion` (a label, or a list of them).

    Of several labels the first is asked for, and the row keeps them all. A prompt may show the two examples of that
    emotion (p3), two that are the same for all (p1, p2), and a genre and a main character drawn for the row (p2).
    """

    fields = ("context", "emotion")

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job; without `prompt` it is p3."""
        return cls(job.prompt or "p3")

    def __init__(self, prompt: str) -> None:
        examples, draws = read_data("babylm_examples.jsonl"), read_data("babylm_draws.json")
        self._prompt = load_prompt(prompt, _VARIABLES, examples + draws)
        self._examples = by_emotion(examples)
        self._fixed = [self._examples[emotion][0] for emotion in _FIXED]
        self._genres, self._characters = json.loads(draws).values()
        self.prompt_id = f"babylm_story/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.replicas.row_records.Recipe`."""
        context, labels = text_cell(values, "context"), labels_cell(values, "emotion")
        # The seed is a hash: its residues are all as likely, and each genre meets each character.
        rest, genre = divmod(seed, len(self._genres))
        variables = {
            "context": context,
            "emotion": labels[0],
            "examples": self._examples[labels[0]],
            "fixed_examples": self._fixed,
            "genre": self._genres[genre],
            "character": self._characters[rest % len(self._characters)],
        }
        text = self._prompt.render(variables)
        return Prompt([{"role": "user", "content": text}], values, emotion=labels[0], emotions=labels)

    def prefix(self, values: dict[str, Any]) -> str:
        """The emotion asked for: its examples stand before the row's own sentence."""
        labels = values.get("emotion")
        return str(labels[0] if isinstance(labels, list) and labels else labels)

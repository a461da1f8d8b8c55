"""BabyLM stories: a children's story that deepens the emotion of a sentence (the paper: 4.1, appendix A)."""

import json
from typing import Any, Self

from pipelines.inputs.cells import first_label, labels_cell, text_cell
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.shipped_prompts import group_by_emotion, load_prompt, read_data
from schemas.augment import AugmentJob
from schemas.rows import Prompt

_VARIABLES = ("context", "emotion", "examples", "fixed_examples", "genre", "character")
# p1 and p2 show one example of each of these emotions, whatever emotion they ask for.
_FIXED_EMOTIONS = ("joy", "anger")


class BabylmStory(JobRecipe):
    """Asks for a story from `context` and `emotion` (a label, or a list of labels).

    The prompt asks for the first label, and the row keeps all. A prompt may show the two examples of that emotion (p3),
    the same two examples for every emotion (p1, p2), and a genre and a main character drawn for the row (p2).

    Args:
        prompt: p1, p2, p3, or a Jinja file.

    Raises:
        JobError: the prompt is missing or not valid Jinja, or uses a variable that this recipe does not give.
    """

    fields = ("context", "emotion")

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job. The default prompt is p3."""
        return cls(job.prompt or "p3")

    def __init__(self, prompt: str) -> None:
        examples, draws = read_data("babylm_examples.jsonl"), read_data("babylm_draws.json")
        self._prompt = load_prompt(prompt, _VARIABLES, examples + draws)
        self._examples = group_by_emotion(examples)
        self._fixed_examples = [self._examples[emotion][0] for emotion in _FIXED_EMOTIONS]
        self._genres, self._characters = json.loads(draws).values()
        self.prompt_id = f"babylm_story/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Renders a row's prompt; see `Recipe.render`."""
        context, labels = text_cell(values, "context"), labels_cell(values, "emotion")
        # The seed is a hash, so each genre and each pair of genre and character is equally likely.
        rest, genre = divmod(seed, len(self._genres))
        variables = {
            "context": context,
            "emotion": labels[0],
            "examples": self._examples[labels[0]],
            "fixed_examples": self._fixed_examples,
            "genre": self._genres[genre],
            "character": self._characters[rest % len(self._characters)],
        }
        messages = self._prompt.messages(variables)
        return Prompt(messages, values, emotion=labels[0], emotions=labels)

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns the emotion that is asked for: its examples come before the row's own sentence."""
        return first_label(values, "emotion")

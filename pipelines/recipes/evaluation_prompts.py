"""Evaluation prompts: tasks whose answers carry an emotion (the paper: 5.1, appendix E.2)."""

import json
import random
from typing import Any, Self

from pipelines.inputs.cells import labels_cell
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.shipped_prompts import load_prompt, read_data
from pipelines.recipes.task_list import parse_tasks
from schemas.augment import AugmentJob
from schemas.rows import Prompt, RowRejection

_VARIABLES = ("emotion", "number", "forms", "setting", "examples")
# The paper asks for 30 tasks in one request. Small models repeat themselves long before that; ask for more samples.
_TASKS, _FORMS = 10, 3


class EvaluationPrompts(JobRecipe):
    """Asks for a list of tasks for `emotion`, and keeps it as a JSON list of `{"instruction", "input"}`.

    Forms and setting of the tasks are drawn by the row's seed, so that the samples of an emotion differ. `kindling
    export --format prompts` joins all lists into one set of prompts.

    Args:
        prompt: tasks (the shipped one), or a Jinja file.

    Raises:
        JobError: the prompt is missing or not valid Jinja, or uses a variable that this recipe does not give.
    """

    fields = ("emotion",)

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job. The default prompt is the shipped one, tasks."""
        return cls(job.prompt or "tasks")

    def __init__(self, prompt: str) -> None:
        draws = read_data("tasks_draws.json")
        self._prompt = load_prompt(prompt, _VARIABLES, draws)
        self._draws = json.loads(draws)
        self.prompt_id = f"evaluation_prompts/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Renders a row's prompt; see `Recipe.render`."""
        labels = labels_cell(values, "emotion")
        draw = random.Random(seed)
        variables = {
            "emotion": labels[0],
            "number": _TASKS,
            "forms": draw.sample(self._draws["forms"], _FORMS),
            "setting": draw.choice(self._draws["settings"]),
            "examples": self._draws["examples"],
        }
        messages = self._prompt.messages(variables)
        return Prompt(messages, values, emotion=labels[0], emotions=labels)

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns "": the emotion comes last, so all prompts begin alike."""
        return ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """Returns the tasks as a JSON list, and all that is no task, a line each.

        A model that repeats the prompt's own examples has not written a task: they are no tasks here.

        Raises:
            RowRejection: the text has no task.
        """
        written, rest = parse_tasks(text, cut_off)
        examples = self._draws["examples"]
        tasks = [task for task in written if task not in examples]
        if not tasks:
            raise RowRejection("no_tasks")
        rest += [task["instruction"] for task in written if task in examples]
        return json.dumps(tasks, ensure_ascii=False), "\n".join(rest)

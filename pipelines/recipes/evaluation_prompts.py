"""Evaluation prompts: tasks whose answers carry an emotion (the paper: section 5.1, appendix E.2)."""

import json
import random
from typing import Any, Self

from pipelines.inputs.cells import labels_cell
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.shipped_prompts import load_prompt, read_data
from pipelines.recipes.task_list import tasks_of
from schemas.augment import AugmentJob
from schemas.rows import Prompt, RowRejection

_VARIABLES = ("emotion", "number", "forms", "setting", "examples")
# The paper asks for 30 at once, and once. Small models repeat themselves long before; further ones are further samples.
_TASKS, _FORMS = 10, 3


class EvaluationPrompts(JobRecipe):
    """Asks for a list of tasks for `emotion`, and keeps it as a JSON list of `{"instruction", "input"}`.

    Forms and setting of the tasks are drawn by the row's seed, so that the samples of an emotion differ. `kindling
    export --format prompts` makes one set of prompts of all lists.
    """

    fields = ("emotion",)

    @classmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job; without `prompt` it is the shipped one."""
        return cls(job.prompt or "tasks")

    def __init__(self, prompt: str) -> None:
        draws = read_data("tasks_draws.json")
        self._prompt = load_prompt(prompt, _VARIABLES, draws)
        self._draws = json.loads(draws)
        self.prompt_id = f"evaluation_prompts/{self._prompt.name}"
        self.prompt_hash = self._prompt.hash

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """See `services.replicas.row_records.Recipe`."""
        labels = labels_cell(values, "emotion")
        draw = random.Random(seed)
        variables = {
            "emotion": labels[0],
            "number": _TASKS,
            "forms": draw.sample(self._draws["forms"], _FORMS),
            "setting": draw.choice(self._draws["settings"]),
            "examples": self._draws["examples"],
        }
        text = self._prompt.render(variables)
        return Prompt([{"role": "user", "content": text}], values, emotion=labels[0], emotions=labels)

    def prefix(self, values: dict[str, Any]) -> str:
        """Nothing: up to the emotion, which comes last, all prompts are alike."""
        return ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """The tasks; and in place of what was cut off, on a line each, what could not be read as one."""
        tasks, rest = tasks_of(text, cut_off)
        own, shown = [], []
        for task in tasks:
            (shown if task in self._draws["examples"] else own).append(task)
        if not own:
            raise RowRejection("no_tasks")
        rest += [task["instruction"] for task in shown]
        return json.dumps(own, ensure_ascii=False), "\n".join(rest)

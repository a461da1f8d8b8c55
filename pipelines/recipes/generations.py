"""The recipe of a job whose rows take several generations, or are tried again by other prompts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.recipes.jinja_expression import Expression
from pipelines.recipes.template import Template
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job import Sampling
from schemas.rows import Prompt
from services.engines.choices import CHOICES
from services.replicas.row_records import Recipe

FIRST, SECOND = "first", "second"
"""variables of a judge's prompt that compares two generations"""

_TEXT = "text"


@dataclass(frozen=True)
class Step:
    """One generation of a row's program.

    Attributes:
        name: name of the generation.
        recipe: makes its prompt, and the text to keep of its response.
        sampling: keys of `schemas.job.Sampling` that differ from the job's.
        when: leaves the generation out where it is false; None for never.
        parse: form of the text: text, json or choice.
        choices: texts of which the model writes one.
        reject_when: rejects the row after the generation; None for never.
        is_judge: the model writes one token, and the value is the probability of the first choice.
        follows: earlier generation whose conversation goes on; "" for none.
        compare: two earlier generations that a judge compares in both orders; empty for none.
        threshold: smallest value of a judge.
    """

    name: str
    recipe: Recipe
    sampling: dict[str, Any] = field(default_factory=dict)
    when: Expression | None = None
    parse: str = "text"
    choices: tuple[str, ...] = ()
    reject_when: Expression | None = None
    is_judge: bool = False
    follows: str = ""
    compare: tuple[str, ...] = ()
    threshold: float = 0.0

    @property
    def expressions(self) -> list[Expression]:
        """Conditions of the generation."""
        return [each for each in (self.when, self.reject_when) if each is not None]


class Generations(Recipe):
    """Recipe of the first generation, which also knows all others.

    Args:
        programs: generations of a row in their order, for the job's own prompt and for each prompt of later tries.
        keep: names of the generations of which the first that was not left out is the row's text.

    Attributes:
        programs, keep: the arguments.
    """

    def __init__(self, programs: Sequence[Sequence[Step]], keep: Sequence[str]) -> None:
        self.programs, self.keep = tuple(map(tuple, programs)), tuple(keep)
        first = self.programs[0][0].recipe
        self._first = first
        self.prompt_id = first.prompt_id
        steps = [step for program in self.programs for step in program]
        self.prompt_hash = hashlib.sha256(
            json.dumps([(step.name, step.recipe.prompt_hash) for step in steps]).encode()
        ).hexdigest()[:16]
        own = {step.name for step in self.programs[0]}
        if any(step.compare for step in self.programs[0]):
            own |= {FIRST, SECOND}
        uses = [(step.recipe.fields, step.recipe.optional_fields) for step in steps]
        conditions = [expression.variables for step in steps for expression in step.expressions]
        required = {name for fields, optional in uses for name in fields if name not in optional}
        names = [name for fields, _ in uses for name in fields] + [name for each in conditions for name in each]
        self.fields = [name for name in dict.fromkeys(names) if name not in own]
        # A condition may test a column that is blank in some rows; it must be there all the same.
        self.optional_fields = tuple(
            name for name in self.fields if name not in required and not any(name in each for each in conditions)
        )
        self.rejects_near_duplicates = first.rejects_near_duplicates

    @property
    def rubrics(self) -> dict[str, str]:
        """Text of each judge's prompt, by the name of the generation."""
        judges = [(step.name, step.recipe) for step in self.programs[0] if step.is_judge]
        return {name: recipe.prompt_text for name, recipe in judges if isinstance(recipe, Template)}

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Renders the first generation's prompt; see `Recipe.render`."""
        return self._first.render(values, seed)

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns the key of the first generation's prompt; see `Recipe.prefix`."""
        return self._first.prefix(values)

    def comparison_texts(self, values: dict[str, Any]) -> tuple[str, str]:
        """Returns the texts of the first generation's recipe; see `Recipe.comparison_texts`."""
        return self._first.comparison_texts(values)

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """Returns what the first generation's recipe keeps; see `Recipe.finish`."""
        return self._first.finish(text, cut_off)


def make_generations(job: AugmentJob, own_recipes: Sequence[Recipe]) -> Generations:
    """Makes the recipe of a job with programs.

    Args:
        job: the job.
        own_recipes: the job's own recipe, by its own prompt and by each prompt of later tries; none where each
            generation names a prompt.

    Raises:
        JobError: a prompt or an expression is not valid.
    """
    if not job.generations:
        return Generations([[Step(_TEXT, recipe)] for recipe in own_recipes], [_TEXT])
    if job.sampling.structured_outputs:
        remedy = "give it to a generation: generations: [{name: ..., parse: json, sampling: {structured_outputs: ...}}]"
        raise JobError("sampling.structured_outputs", None, "the job has several generations", remedy)
    fixed = {number: _step(job, number) for number, each in enumerate(job.generations) if each.prompt}
    programs = [
        [fixed.get(number) or _step(job, number, recipe) for number, each in enumerate(job.generations)]
        for recipe in own_recipes
    ] or [list(fixed.values())]
    _check_variables(programs[0])
    return Generations(programs, job.kept)


def _step(job: AugmentJob, number: int, recipe: Recipe | None = None) -> Step:
    key, generation = f"generations.{number}", job.generations[number]
    whole = Sampling.model_validate({**job.sampling.model_dump(), **generation.sampling})
    sampling = {name: whole.model_dump().get(name) for name in generation.sampling}
    if recipe is None:
        assert generation.prompt is not None
        try:
            recipe = Template(generation.prompt, whole.structured_outputs)
        except JobError as error:
            inner = error.key if error.key.startswith("sampling") else "prompt"
            raise JobError(f"{key}.{inner}", error.value, error.cause, error.remedy) from None
    if generation.kind == "judge":
        sampling = {CHOICES: generation.judge_choices}
    elif generation.choices:
        sampling["structured_outputs"] = {"choice": generation.choices}
    return Step(
        generation.name,
        recipe,
        sampling,
        Expression(generation.when, f"{key}.when") if generation.when else None,
        generation.parse,
        tuple(generation.choices),
        Expression(generation.reject_when, f"{key}.reject_when") if generation.reject_when else None,
        generation.kind == "judge",
        generation.follows or "",
        tuple(generation.compare),
        generation.threshold or 0.0,
    )


def _check_variables(steps: Sequence[Step]) -> None:
    """Refuses a generation that uses its own text, or that of a later one.

    Raises:
        JobError: there is such a generation.
    """
    names = [step.name for step in steps]
    for number, step in enumerate(steps):
        uses = {
            "prompt": (list(step.recipe.fields), names[number:]),
            "when": (step.when.variables if step.when else [], names[number:]),
            "reject_when": (step.reject_when.variables if step.reject_when else [], names[number + 1 :]),
        }
        for key, (variables, later) in uses.items():
            if name := next((name for name in variables if name in later), None):
                cause = f"it uses `{name}`, which is generated {'later' if name != step.name else 'by it'}"
                raise JobError(f"generations.{number}.{key}", None, cause, "put the generations in another order")

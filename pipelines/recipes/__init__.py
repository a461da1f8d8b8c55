"""Recipes: from an input row to the prompt that is sent, and from a response to the text that is kept.

babylm.py              a children's story from a sentence and its emotion (prompts/p1 to p3)
alpaca.py              the answer to an instruction, written again with an emotion (prompts/v1 to v3)
alpaca_cleaning.py     rules that reject Alpaca rows
meta_talk.py           cuts off what models write around a text
evaluation_prompts.py  tasks whose answers carry an emotion (prompts/tasks)
task_list.py           reads tasks from the list that a model wrote
template.py            the user's own Jinja file over any columns
generations.py         several generations of one row, and other prompts for later tries
messages.py            a column of chat messages, sent unchanged
structured_text.py     texts that follow a JSON schema or a list of choices
job_recipe.py          the base class of recipes
jinja_prompt.py        prompts as Jinja templates: loaded and hashed
jinja_expression.py    a condition of a generation
jinja_blanks.py        the variables that a template tests or defaults, and that may therefore be blank
jinja_sandbox.py       the template sandbox: a render does bounded work and runs no code
jinja_allowed.py       the filters and methods that a template may use, and the cost of each
shipped_prompts.py     examples that shipped prompts show, and variables that a prompt may use

A recipe is pickled to every replica and works there.

To add a recipe, write its file with a subclass of `JobRecipe`, add its line to RECIPES, and its name to `recipe` in
schemas/augment.py.
"""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from pipelines.recipes.job_recipe import JobRecipe
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job_parsing import parse_job
from services.replicas.row_records import Recipe

# A recipe is imported when a job names it: Jinja and the JSON schemas take their time.
RECIPES = {
    "babylm_story": "pipelines.recipes.babylm:BabylmStory",
    "alpaca_rewrite": "pipelines.recipes.alpaca:AlpacaRewrite",
    "evaluation_prompts": "pipelines.recipes.evaluation_prompts:EvaluationPrompts",
    "template": "pipelines.recipes.template:Template",
    "messages": "pipelines.recipes.messages:Messages",
}


def make_recipes(job: AugmentJob) -> dict[str, Recipe]:
    """Makes the recipe of each variant of a job, by the variant's name. Variants with the same prompt share one.

    Raises:
        JobError: as `make_recipe`, for any of the prompts.
    """
    variants = job.variants()
    prompts = dict.fromkeys(variant.prompt for variant in variants)
    recipes = {prompt: make_recipe(job.model_copy(update={"prompt": prompt})) for prompt in prompts}
    return {variant.name: recipes[variant.prompt] for variant in variants}


def recipes_of_run(job: Mapping[str, Any]) -> dict[str, Recipe]:
    """Makes the recipes of a run again, by the names of its variants.

    Args:
        job: the job in the run's record.

    Raises:
        JobError: as `make_recipe`, such as for a prompt file that is not there any more.
    """
    return make_recipes(job_of_run(job))


def job_of_run(job: Mapping[str, Any]) -> AugmentJob:
    """Returns the job in a run's record, without the storage options of its input.

    Raises:
        JobError: it is no job of this version of Kindling.
    """
    # Of these options a record has the names alone, since their values may be secrets.
    return parse_job({**job, "input": {**job["input"], "storage_options": {}}}, AugmentJob)


def make_recipe(job: AugmentJob) -> Recipe:
    """Makes the recipe that a job names, with the prompt of `job.prompt` whatever a sweep varies.

    Raises:
        JobError: a prompt is missing, unknown or not valid Jinja, or a key of the job is not for this recipe.
    """
    if not job.has_programs:
        return _make_own_recipe(job)
    from pipelines.recipes.generations import make_generations

    uses_own = not job.generations or any(each.prompt is None for each in job.generations)
    prompts = [job.prompt, *job.quality.retry_prompts] if uses_own else []
    return make_generations(job, [_make_own_recipe(job.model_copy(update={"prompt": prompt})) for prompt in prompts])


def _make_own_recipe(job: AugmentJob) -> Recipe:
    recipe_class: type[JobRecipe] = resolve_name(RECIPES[job.recipe])
    if job.sampling.structured_outputs and not recipe_class.takes_structured_outputs:
        cause = f"the recipe {job.recipe} asks for a text of its own form"
        raise JobError(
            "sampling.structured_outputs", None, cause, "leave the key out, or use the recipe template or messages"
        )
    if job.classifier and not recipe_class.takes_classifier:
        cause = f"the recipe {job.recipe} does not choose an emotion for its rows"
        raise JobError("classifier", job.classifier.id, cause, "leave the key out, or use the recipe alpaca_rewrite")
    return recipe_class.from_job(job)


def all_fields(recipes: Mapping[str, Recipe]) -> list[str]:
    """Returns the fields of all recipes, each once."""
    return list(dict.fromkeys(field for recipe in recipes.values() for field in recipe.fields))


def optional_fields(recipes: Mapping[str, Recipe]) -> list[str]:
    """Returns the fields that no recipe requires: an input may have no column for them."""
    required = {field for recipe in recipes.values() for field in recipe.fields if field not in recipe.optional_fields}
    return [field for field in all_fields(recipes) if field not in required]

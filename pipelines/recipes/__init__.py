"""Recipes: from an input row to the prompt that is sent, and from a response to the text that is kept.

babylm.py              a children's story from a sentence and its emotion (prompts/p1 to p3)
alpaca.py              the answer to an instruction, written again with an emotion (prompts/v1 to v3)
alpaca_cleaning.py     rules by which Alpaca rows are refused
meta_talk.py           cuts off what models say around a text
evaluation_prompts.py  tasks whose answers carry an emotion (prompts/tasks)
task_list.py           reads tasks from the list that a model wrote
template.py            the user's own Jinja file over any columns
messages.py            a column of chat messages, taken as they are
jinja_prompt.py        prompts as Jinja templates: loaded and hashed
jinja_sandbox.py       the template sandbox: a render does bounded work and runs no code
jinja_allowed.py       the filters and methods that a template may use, and what each costs
shipped_prompts.py     examples that shipped prompts show, and variables that a prompt may use

A recipe is pickled to every replica and works there.
"""

from collections.abc import Mapping

from schemas.augment import AugmentJob
from schemas.errors import JobError
from services.replicas.row_records import Recipe


def recipes_of(job: AugmentJob) -> dict[str, Recipe]:
    """The recipe of each variant of a job, by the variant's name; those with the same prompt share one.

    Raises:
        JobError: as `recipe_of`, of any of the prompts.
    """
    variants = job.variants()
    prompts = dict.fromkeys(each.prompt for each in variants)
    of_prompt = {prompt: recipe_of(job.model_copy(update={"prompt": prompt})) for prompt in prompts}
    return {each.name: of_prompt[each.prompt] for each in variants}


def fields_of(recipes: Mapping[str, Recipe]) -> list[str]:
    """The fields of all of them, each once."""
    return list(dict.fromkeys(field for recipe in recipes.values() for field in recipe.fields))


def optional_of(recipes: Mapping[str, Recipe]) -> list[str]:
    """The fields that an input may have no column for, whatever the variant."""
    each = [set(recipe.fields) - set(recipe.optional) for recipe in recipes.values()]
    return [field for field in fields_of(recipes) if not any(field in required for required in each)]


def recipe_of(job: AugmentJob) -> Recipe:
    """The recipe that a job asks for, with its own prompt loaded, whatever its sweep varies.

    Raises:
        JobError: the prompt is missing, unknown, or no valid Jinja; or the job has what is not for this recipe.
    """
    structured = job.sampling.structured_outputs
    if structured and job.recipe != "template":
        cause = f"the recipe {job.recipe} asks for a text of its own form"
        raise JobError("sampling.structured_outputs", None, cause, "leave the key out, or use the recipe template")
    if job.classifier and job.recipe != "alpaca_rewrite":
        cause = f"the recipe {job.recipe} asks for no emotion of its own choice"
        raise JobError("classifier", job.classifier.id, cause, "leave the key out, or use the recipe alpaca_rewrite")
    if job.recipe == "babylm_story":
        from pipelines.recipes.babylm import BabylmStory

        return BabylmStory(job.prompt or "p3")
    if job.recipe == "alpaca_rewrite":
        from pipelines.recipes.alpaca import AlpacaRewrite

        given = "emotion" in job.input.columns
        if job.classifier and (given or "emotion" in job.input.keep):
            raise JobError("classifier", job.classifier.id, "the rows have their emotions", "leave one of the two out")
        return AlpacaRewrite(job.prompt or "v3", "given" if given else "fitting" if job.classifier else "drawn")
    if job.recipe == "evaluation_prompts":
        from pipelines.recipes.evaluation_prompts import EvaluationPrompts

        return EvaluationPrompts(job.prompt or "tasks")
    if job.recipe == "template":
        from pipelines.recipes.template import Template

        if job.prompt is None:
            raise JobError("prompt", None, "the template recipe needs a Jinja file", "add `prompt: my_prompt.jinja`")
        return Template(job.prompt, structured["json"] if structured else None)
    from pipelines.recipes.messages import Messages

    if job.prompt is not None:
        raise JobError("prompt", job.prompt, "the messages recipe takes no prompt", "leave the key out")
    return Messages()

"""Recipes: from an input row to the prompt that is sent.

    babylm.py     a children's story from a sentence and its emotion (prompts/p3.jinja, prompts/babylm_examples.jsonl)
    template.py   the user's own Jinja file over any columns
    messages.py   a column of chat messages, taken as they stand
    jinja.py      prompts as Jinja templates: loaded, sandboxed, hashed
    sandbox.py    Jinja, fenced in: a render does bounded work
    allowed.py    what a template may use, and what each use costs
    cells.py      what a cell of the input must be, for all of them

A recipe is pickled to every replica and renders there.
"""

from schemas.errors import JobError
from schemas.job import AugmentJob
from services.records import Recipe


def recipe_of(job: AugmentJob) -> Recipe:
    """The recipe that a job asks for, with its prompt loaded.

    Raises:
        JobError: the prompt is missing, unknown, or no valid Jinja.
    """
    if job.recipe == "babylm_story":
        from pipelines.recipes.babylm import BabylmStory

        return BabylmStory(job.prompt or "p3")
    if job.recipe == "template":
        from pipelines.recipes.template import Template

        if job.prompt is None:
            raise JobError("prompt", None, "the template recipe needs a Jinja file", "add `prompt: my_prompt.jinja`")
        return Template(job.prompt)
    from pipelines.recipes.messages import Messages

    if job.prompt is not None:
        raise JobError("prompt", job.prompt, "the messages recipe takes no prompt", "leave the key out")
    return Messages()

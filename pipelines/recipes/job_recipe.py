"""The base class of the recipes that a job file can name."""

from abc import abstractmethod
from typing import ClassVar, Self

from schemas.augment import AugmentJob
from services.replicas.row_records import Recipe


class JobRecipe(Recipe):
    """A recipe that a job file can name under `recipe`, and that stands in `pipelines.recipes.RECIPES`."""

    takes_structured_outputs: ClassVar[bool] = False
    """whether a job with this recipe may set `sampling.structured_outputs`"""
    takes_classifier: ClassVar[bool] = False
    """whether a job with this recipe may set `classifier`"""

    @classmethod
    @abstractmethod
    def from_job(cls, job: AugmentJob) -> Self:
        """Makes the recipe of a job, with the prompt of `job.prompt` whatever a sweep varies.

        Raises:
            JobError: the prompt is missing, unknown or not valid Jinja, or a key of the job is not for this recipe.
        """

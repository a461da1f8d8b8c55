"""`kindling train`: an emotion classifier, or a language model through its stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.jobfile import as_job
from schemas.train import ClassifierStage, TrainJob

if TYPE_CHECKING:
    from pipelines.training.stage import LanguageModelReport
    from trainers.emotion_classifier import ClassifierReport


def train(job: TrainJob | Mapping[str, Any] | str | Path) -> "ClassifierReport | LanguageModelReport":
    """Trains the model that a job asks for, and resumes a training that was stopped; a finished one is not repeated.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        KindlingError: the job, its data or its model has a fault, or the folder holds something else.
        StoppedError: a stop signal came. The same command resumes the training.
    """
    job = as_job(job, TrainJob)
    # Imported here: each of the two loads torch and libraries that the other one does without.
    if isinstance(job.stages[0], ClassifierStage):
        from pipelines.training.classifier import train_classifier_job

        return train_classifier_job(job, job.stages[0])
    from pipelines.training.language_model import train_stages

    return train_stages(job)

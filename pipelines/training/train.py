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
    """Trains what a job asks for, or finds it there.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        KindlingError: the job, its data or its model is at fault, or the folder holds something else.
    """
    job = as_job(job, TrainJob)
    if isinstance(job.stages[0], ClassifierStage):
        from pipelines.training.classifier import train_classifier_job

        return train_classifier_job(job)
    from pipelines.training.language_model import train_stages

    return train_stages(job)

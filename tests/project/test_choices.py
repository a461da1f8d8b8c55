"""The choices of a job file are those that the product implements: schemas cannot import what lies above them.

Recipes and formats of input files are held the same way, in tests/pipelines/recipes/ and tests/pipelines/inputs/.
"""

from typing import get_type_hints

from pipelines.training.rows import sources_of
from schemas.job import kind_of, sections_in
from schemas.train import TrainJob
from trainers.emotion_classifier import train_classifier
from trainers.language_model import train_language_model


def kinds(annotation):
    return sorted(kind_of(section) for section in sections_in(annotation))


def test_every_kind_of_stage_has_a_trainer_and_rows():
    offered = kinds(TrainJob.model_fields["stages"].annotation)
    language = kinds(get_type_hints(train_language_model)["stage"])
    assert offered == sorted([*language, *kinds(get_type_hints(train_classifier)["stage"])])
    assert language == kinds(get_type_hints(sources_of)["stage"])

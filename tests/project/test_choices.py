"""The choices of a job file are those that the product implements: schemas cannot import what lies above them.

Recipes and formats of input files are held the same way, in tests/pipelines/recipes/ and tests/pipelines/inputs/.
"""

import ast
from typing import get_args

import schemas.train
from pipelines.evaluation.evaluate import EVALUATIONS
from schemas.evaluate import EvaluateJob
from schemas.job_parsing import kind_key, sections_in
from tests.support.files import ROOT


def kinds_taken(path, function):
    """Kinds of the parameter `stage` of a function, read from its source: importing a trainer takes ten seconds."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            (annotation,) = (argument.annotation for argument in node.args.args if argument.arg == "stage")
            return {kind_key(getattr(schemas.train, n.id)) for n in ast.walk(annotation) if isinstance(n, ast.Name)}
    raise LookupError(f"{path} has no function {function}")


def test_every_evaluation_of_the_job_file_is_implemented_and_has_a_section():
    (offered,) = get_args(EvaluateJob.model_fields["evaluations"].annotation)
    assert sorted(get_args(offered)) == sorted(evaluation.name for evaluation in EVALUATIONS)
    assert set(get_args(offered)) <= set(EvaluateJob.model_fields)


def test_every_kind_of_stage_has_a_trainer_and_rows():
    offered = {kind_key(section) for section in sections_in(schemas.train.TrainJob.model_fields["stages"].annotation)}
    language = kinds_taken("trainers/language_model.py", "train_language_model")
    assert offered == language | kinds_taken("trainers/emotion_classifier.py", "train_classifier")
    assert language == kinds_taken("pipelines/training/rows.py", "row_sources")

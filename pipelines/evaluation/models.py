"""Models of an evaluate job: those that can be loaded, and the errors of those that cannot."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import EngineError, StoppedError
from schemas.evaluate import EvaluatedModel, EvaluateJob
from services.models.checkpoints import locate

_log = logging.getLogger("kindling")


@contextmanager
def collect_failures(failures: dict[str, str], name: str) -> Iterator[None]:
    """Inside the block an error of a model is logged and collected, so that the other models are still evaluated.

    Args:
        failures: receives the error, under the name of the model.
        name: name of the model.

    Raises:
        StoppedError: a signal came, the disk is full, or the cluster is gone; none of these is the model's fault.
    """
    try:
        yield
    except (EngineError, StoppedError) as error:
        # The key is `cluster` where replicas keep being killed, as a model that is too large for the memory makes them.
        if isinstance(error, StoppedError) and error.key != "cluster":
            raise
        _log.error("%s: %s", name, error)
        failures[name] = str(error)


def locate_models(job: EvaluateJob, failures: dict[str, str]) -> dict[str, tuple[EvaluatedModel, str]]:
    """Finds the models of a job; each with its revision, by name.

    Args:
        failures: receives the errors of models that cannot be found.
    """
    models = {}
    for model in job.models:
        with collect_failures(failures, model.label):
            models[model.label] = model, "" if model.id == "fake" else locate(model.model())[1]
    return models

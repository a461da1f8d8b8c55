"""The models of a job: which can be had, and what is told of those that cannot."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import EngineError, StoppedError
from schemas.evaluate import EvaluatedModel, EvaluateJob
from services.models.checkpoints import locate

_log = logging.getLogger("kindling")


@contextmanager
def failures_told(failures: dict[str, str], name: str) -> Iterator[None]:
    """Inside the block a model is worked on; where it is at fault that is told, and the other models go on.

    Args:
        failures: gets the error under the model's name.

    Raises:
        StoppedError: a signal came, the disk is full, or the cluster is gone; nothing of that is the model's fault.
    """
    try:
        yield
    except (EngineError, StoppedError) as error:
        # `cluster` is told where replicas keep being killed, which a model that is too large brings about.
        if isinstance(error, StoppedError) and error.key != "cluster":
            raise
        _log.error("%s: %s", name, error)
        failures[name] = str(error)


def located(job: EvaluateJob, failures: dict[str, str]) -> dict[str, tuple[EvaluatedModel, str]]:
    """The models that are there, by name, each with its revision.

    Args:
        failures: gets the others.
    """
    found = {}
    for model in job.models:
        with failures_told(failures, model.label):
            found[model.label] = model, "" if model.id == "fake" else locate(model.model())[1]
    return found

"""Models that are scored, not asked to write: loaded with their logits into the pool's actors."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from pipelines.evaluation.pool import spread
from pipelines.evaluation.session import Session
from schemas.evaluate import EvaluatedModel
from schemas.job import Model
from services.causal_model import load_causal_model

Unit = TypeVar("Unit")
Done = TypeVar("Done")
Loaded = tuple[torch.nn.Module, Any]
"""a model and its tokenizer"""


def spread_over_model(
    session: Session, name: str, work: Callable[[Loaded, Unit], Done], units: Sequence[Unit]
) -> Iterator[tuple[int, Done]]:
    """`pool.spread` with a causal model of the job, loaded once in each actor."""
    load = partial(_load, session.models[name][0].model())
    return spread(load, work, units, session.job.cluster, session.stop_within)


def model_facts(model: EvaluatedModel, revision: str) -> dict[str, Any]:
    """What decides a model's scores."""
    return {**model.model_dump(exclude={"name"}), "found": revision}


def _load(model: Model, device: str, cores: int) -> Loaded:
    torch.set_num_threads(cores)
    return load_causal_model(model, device)

"""Responses of a model to prompts.

Each model has an augmentation run of its own below the evaluation's folder, with the prompts as its input rows. That
run keeps engines full, is resumed, verified and compared like any other, and each response carries its lineage.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

from pipelines.augmentation import augment
from pipelines.evaluation.answers import Answer
from pipelines.evaluation.prompts import EmotionPrompt
from schemas.errors import RunError
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.job import AugmentJob, Input, Metrics, Output
from schemas.rows import ACCEPTED, ERROR
from services.store import ShardStore

_log = logging.getLogger("kindling")

_COLUMNS = ["row_index", "text", "reason", "finish_reason", "seed"]


def write_prompts(store: ShardStore, evaluation: str, prompts: Sequence[EmotionPrompt]) -> str:
    """Writes the prompts as input rows below the evaluation's folder; their URL."""
    rows = ({"messages": [{"role": "user", "content": prompt.text}], "emotion": prompt.emotion} for prompt in prompts)
    name = f"responses/{evaluation}.jsonl"
    store.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return f"{store.url.rstrip('/')}/{name}"


def responses_of(
    job: EvaluateJob, model: EvaluatedModel, evaluation: str, prompts: Sequence[EmotionPrompt], prompts_url: str
) -> tuple[list[Answer], dict[str, Any]]:
    """The responses of a model, one to each prompt in their order; what is there already is not generated again.

    The model's chat template is applied to each prompt; a model without one gets the prompt as it stands.

    Returns:
        the answers; and of the engine that wrote them what run.json tells.

    Raises:
        EngineError: the model cannot be loaded.
        StoppedError: a signal came; what is finished is kept.
    """
    url = f"{job.output.path.rstrip('/')}/responses/{evaluation}/{model.label}"
    _log.info("%s answers %d prompts", model.label, len(prompts))
    augment(
        AugmentJob(
            name=f"{job.name}-{model.label}",
            input=Input(path=prompts_url, keep=["emotion"]),
            recipe="messages",
            model=model.model(),
            sampling=job.sampling,
            engine=job.engine,
            cluster=job.cluster,
            output=Output(path=url),
            metrics=_beside(job.metrics),
            seed=job.seed,
        )
    )
    store = ShardStore(url)
    found: dict[int, Answer] = {}
    for state in (ACCEPTED, ERROR):
        for batch in store.rows(state, _COLUMNS):
            for row in batch.to_pylist():
                prompt = prompts[row["row_index"]]
                text, fault = (row["text"], "") if state == ACCEPTED else (None, row["reason"])
                found[row["row_index"]] = Answer(
                    prompt.text, prompt.emotion, text, row["finish_reason"], row["seed"], fault
                )
    if len(found) != len(prompts):
        remedy = "`kindling verify` tells what is wrong with it"
        raise RunError("output.path", url, f"it has {len(found)} responses to {len(prompts)} prompts", remedy)
    run = store.read_run()
    return [found[number] for number in range(len(prompts))], run.engine | {"versions": run.versions} if run else {}


def _beside(metrics: Metrics) -> Metrics:
    """Of a run of the evaluation, which has the port itself."""
    return metrics if metrics.port is None else metrics.model_copy(update={"port": 0})

"""Models respond to the prompts of all evaluations of a job, and each starts its engines once for all of them.

The responses of a model to the prompts of an evaluation are an augmentation run of their own below the evaluation's
folder, with the prompts as input rows: the run keeps engines full, and is resumed, verified and compared like any
other.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.augmentation.augment import augment
from pipelines.augmentation.shared import Shared
from pipelines.evaluation.models import collect_failures
from pipelines.evaluation.prompts import EmotionPrompt
from pipelines.evaluation.responses import Response
from pipelines.evaluation.session import Session, UnansweredPrompts
from schemas.augment import AugmentJob, AugmentOutput
from schemas.errors import RunError, StoppedError
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.job import Input
from schemas.rows import ERROR, STATES
from services.models.checkpoints import locate
from services.observability.metrics import Endpoint
from services.replicas.kept_replicas import KeptReplicas
from services.storage.store import ShardStore

_COLUMNS = ["row_index", "text", "reason", "finish_reason", "seed"]

_log = logging.getLogger("kindling")


def generate_responses(
    sessions: Mapping[str, Session], unanswered: Mapping[str, UnansweredPrompts], endpoint: Endpoint, address: str
) -> None:
    """Lets each model respond to the prompts of all evaluations; responses that are there are not generated again.

    A model's chat template is applied to each prompt; a model without one gets the prompt unchanged. An error of a
    model is recorded as its failure in the evaluation that it came up in, and in those that were still to come.

    Args:
        sessions: the session of each evaluation of the job, by its name.
        unanswered: prompts of each evaluation, and the models that respond to them, by the evaluation's name.
        endpoint: endpoint of the job, which shows the metrics of these runs too.
        address: address of the endpoint.

    Raises:
        StoppedError: a signal came; finished responses are kept.
    """
    urls = {evaluation: _write_prompts(sessions[evaluation].store, evaluation, asked.prompts)
            for evaluation, asked in unanswered.items()}  # fmt: skip
    for name in dict.fromkeys(model for asked in unanswered.values() for model in asked.models):
        left = [evaluation for evaluation, asked in unanswered.items() if name in asked.models]
        with KeptReplicas() as replicas:
            shared = Shared(replicas, endpoint, address)
            for number, evaluation in enumerate(left):
                if sessions[evaluation].stop_within() is not None:
                    raise StoppedError("", None, "by a signal; finished responses are kept", "the same command resumes")
                failures: dict[str, str] = {}
                with collect_failures(failures, name):
                    _respond(sessions[evaluation], name, evaluation, urls[evaluation], shared)
                if failures:  # its engines would fail again, after the same minutes
                    for other in left[number:]:
                        sessions[other].failures.update(failures)
                    break


def read_generated(
    job: EvaluateJob, model: EvaluatedModel, evaluation: str, prompts: Sequence[EmotionPrompt]
) -> tuple[list[Response], dict[str, Any]]:
    """Reads the response of a model to each prompt, in their order.

    Returns:
        the responses; and settings and versions of the engine that wrote them.

    Raises:
        RunError: the run does not have one response to each prompt.
    """
    url = _folder(job, evaluation, model)
    store = ShardStore(url)
    responses: dict[int, Response] = {}
    for state in STATES:  # a blank response is rejected in the run, and is a response all the same
        for batch in store.read_rows(state, _COLUMNS):
            for row in batch.to_pylist():
                prompt = prompts[row["row_index"]]
                text, fault = (None, row["reason"]) if state == ERROR else (row["text"], "")
                responses[row["row_index"]] = Response(
                    prompt.text, prompt.emotion, text, row["finish_reason"], row["seed"], fault
                )
    if len(responses) != len(prompts):
        remedy = "`kindling verify` says what is wrong with it"
        raise RunError("output.path", url, f"it has {len(responses)} responses to {len(prompts)} prompts", remedy)
    run = store.read_run()
    engine = run.engine | {"versions": run.versions} if run else {}
    return [responses[number] for number in range(len(prompts))], engine


def _respond(session: Session, name: str, evaluation: str, prompts_url: str, shared: Shared) -> None:
    job, model = session.job, session.models[name][0]
    _refuse_diverged(model)
    _log.info("%s responds to the prompts of %s", name, evaluation)
    augment(
        AugmentJob(
            name=f"{job.name}-{name}",
            input=Input(path=prompts_url, keep=["emotion"]),
            recipe="messages",
            model=model.model(),
            sampling=job.sampling,
            engine=job.engine,
            cluster=job.cluster,
            output=AugmentOutput(path=_folder(job, evaluation, model)),
            metrics=job.metrics,
            seed=job.seed,
        ),
        shared=shared,
    )


def _write_prompts(store: ShardStore, evaluation: str, prompts: Sequence[EmotionPrompt]) -> str:
    """Writes the prompts as input rows below the evaluation's folder, and returns the URL of the file."""
    rows = ({"messages": [{"role": "user", "content": prompt.text}], "emotion": prompt.emotion} for prompt in prompts)
    name = f"responses/{evaluation}.jsonl"
    store.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return f"{store.url.rstrip('/')}/{name}"


def _folder(job: EvaluateJob, evaluation: str, model: EvaluatedModel) -> str:
    return f"{job.output.path.rstrip('/')}/responses/{evaluation}/{model.label}"


def _refuse_diverged(model: EvaluatedModel) -> None:
    from services.models.diverged import refuse_diverged_checkpoint  # it imports torch, which takes seconds

    path = "" if model.id == "fake" else locate(model.model())[0]
    if path and Path(path).is_dir():
        refuse_diverged_checkpoint(path, model.label)

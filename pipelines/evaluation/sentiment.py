"""The evaluation `sentiment`: emotions of responses, rates of each model, and comparisons with the first model."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pipelines.evaluation.generation import read_generated
from pipelines.evaluation.prompts import EmotionPrompt, content_of, first_per_emotion, read_groups, read_prompts
from pipelines.evaluation.responses import Response, read_responses
from pipelines.evaluation.sentiment_results import (
    SENTIMENT,
    SentimentReport,
    compare_models,
    read_sentiment,
    write_sentiment,
)
from pipelines.evaluation.session import Evaluation, Session, UnansweredPrompts
from schemas.emotions import EMOTIONS
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.fingerprint import identity_of
from schemas.job import Classifier
from schemas.text import plural
from services.cluster import connect_to_ray
from services.models.classifier import EmotionClassifier, classifier_revision, load_classifier, with_absolute_path
from services.models.document_scores import calibrated_scores
from services.replicas.actors import run_on_actors

_log = logging.getLogger("kindling")

# Some hundred sentences are seconds of work: small enough that all actors end at about the same time.
_TEXTS_PER_ITEM = 64


def check_sentiment(job: EvaluateJob) -> None:
    """Checks the section before any evaluation runs.

    Raises:
        JobError: the prompts, the responses or the groups cannot be read, or do not fit each other.
        EngineError: the classifier cannot be found.
    """
    section = job.sentiment
    read_groups(section)
    prompts = read_prompts(section, SENTIMENT) if section.prompts else None
    for responses in job.given_responses:
        read_responses(responses, prompts)
    classifier_revision(section.classifier)


@dataclass(frozen=True)
class _Plan:
    """Prompts and given responses of a job, and the identities of its results.

    Attributes:
        prompts: prompts that models respond to; none where the job names none.
        given: responses that exist already, by the name of the model that wrote them.
        identities: everything that the rates of a model depend on, flat, by the model's name.
    """

    prompts: list[EmotionPrompt]
    given: dict[str, list[Response]]
    identities: dict[str, dict[str, Any]]


def unanswered_prompts(session: Session) -> UnansweredPrompts:
    """Returns the models without a result."""
    plan = _plan(session)
    left = session.without_result(SENTIMENT, plan.identities)
    return UnansweredPrompts([name for name in left if name in session.models], plan.prompts)


def evaluate_sentiment(session: Session) -> SentimentReport:
    """Scores the responses, and computes the rates; finished results are read.

    Raises:
        KindlingError: the job, a file of it, its classifier or the folder is at fault.
        StoppedError: a signal came; finished results are kept.
    """
    job, store, groups, plan = session.job, session.store, read_groups(session.job.sentiment), _plan(session)
    left = [name for name in session.without_result(SENTIMENT, plan.identities) if name not in session.failures]
    if left:
        responses: dict[str, list[Response]] = {name: plan.given[name] for name in left if name in plan.given}
        engines: dict[str, dict[str, Any]] = {}
        for name in (name for name in left if name in session.models):
            responses[name], engines[name] = read_generated(job, session.models[name][0], SENTIMENT, plan.prompts)
        with connect_to_ray(job.cluster.address):
            for name, scores in _score_responses(session, responses):
                with session.record_failure(name):
                    identity, engine = plan.identities[name], engines.get(name, {})
                    write_sentiment(store, name, responses[name], scores, groups, identity, engine)
    measured = [read_sentiment(store, name, groups) for name in plan.identities if name not in session.failures]
    return SentimentReport(list(groups), measured, list(compare_models(measured, groups, job.seed)))


def _plan(session: Session) -> _Plan:
    job, section = session.job, session.job.sentiment
    prompts = read_prompts(section, SENTIMENT) if section.prompts else None
    given = {
        each.label: first_per_emotion(read_responses(each, prompts), section.per_emotion)
        for each in job.given_responses
    }
    prompts = first_per_emotion(prompts, section.per_emotion) if prompts else []
    common = {
        "classifier": {**section.classifier.model_dump(), "found": classifier_revision(section.classifier)},
        "prompts": content_of([(prompt.emotion, prompt.text) for prompt in prompts]),
        "pooling": section.pooling,
        "scores": "calibrated",  # results of earlier versions are not: their labels are other ones
        "groups": read_groups(section),
    }
    facts = {name: _model_facts(job, model, revision) for name, (model, revision) in session.models.items()}
    facts |= {name: _response_facts(responses) for name, responses in given.items()}
    return _Plan(prompts, given, {name: identity_of({SENTIMENT: common, **model}) for name, model in facts.items()})


def _response_facts(responses: Sequence[Response]) -> dict[str, str]:
    """Everything about given responses that their rates depend on."""
    texts = [(response.emotion, response.prompt, response.text) for response in responses]
    return {"responses": content_of(texts)}


def _model_facts(job: EvaluateJob, model: EvaluatedModel, revision: str) -> dict[str, Any]:
    """Everything about a model that its responses depend on."""
    return {
        "model": {**model.model_dump(exclude={"name"}), "found": revision},
        "sampling": job.sampling.model_dump(),
        "engine": job.engine,
        "seed": job.seed,
    }


def _score_responses(session: Session, responses: Mapping[str, list[Response]]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and calibrated scores, of shape (responses, 28), of each model as soon as its responses are scored."""
    texts = {name: [response.text or "" for response in listed] for name, listed in responses.items()}
    starts = [(name, at) for name, listed in texts.items() for at in range(0, len(listed), _TEXTS_PER_ITEM)]
    items = [texts[name][at : at + _TEXTS_PER_ITEM] for name, at in starts]
    scores = {name: np.zeros((len(listed), len(EMOTIONS)), dtype=np.float32) for name, listed in texts.items()}
    left = {name: len(listed) for name, listed in texts.items()}
    _log.info("scoring %s", plural(sum(left.values()), "response"))
    section = session.job.sentiment
    load, work = partial(_load, with_absolute_path(section.classifier)), partial(_score, section.pooling)
    with session.progress.show(SENTIMENT, "responses", left) as advance:
        for number, done in run_on_actors(load, work, items, session.job.cluster, session.stop_within):
            name, at = starts[number]
            scores[name][at : at + len(done)] = done
            left[name] -= len(done)
            advance(name, len(done))
            if not left[name]:
                yield name, scores[name]


def _load(section: Classifier, device: str, cores: int) -> EmotionClassifier:
    torch.set_num_threads(cores)
    return load_classifier(section, device)


def _score(pooling: str, classifier: EmotionClassifier, texts: list[str]) -> np.ndarray:
    return calibrated_scores(classifier, texts, pooling)


EVALUATION = Evaluation("sentiment", evaluate_sentiment, check_sentiment, unanswered_prompts)

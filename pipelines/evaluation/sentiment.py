"""The evaluation `sentiment`: responses, their emotions, the rates of each model, and models beside the first one."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from eval.sentiment import BLANK, compare_sentiment
from pipelines.evaluation.prompts import content_of, first_of_each, read_groups, read_prompts
from pipelines.evaluation.responses import Answer, read_answers, responses_of, write_prompts
from pipelines.evaluation.sentiment_results import (
    SENTIMENT,
    ModelSentiment,
    SentimentReport,
    read_sentiment,
    write_sentiment,
)
from pipelines.evaluation.session import Comparison, Evaluation, Session
from schemas.emotions import EMOTIONS
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.fingerprint import identity_of
from schemas.job import Classifier
from services.cluster import connect_to_ray
from services.models.classifier import EmotionClassifier, classifier_revision, load_classifier, with_absolute_path
from services.models.document_scores import score_documents
from services.replicas.actors import run_on_actors

_log = logging.getLogger("kindling")

# Some hundred sentences: seconds of work, so that actors end together.
_TEXTS_AT_ONCE = 64


def check_sentiment(job: EvaluateJob) -> None:
    """Finds before anything runs what is wrong with the prompts, the responses, the groups or the classifier.

    Raises:
        KindlingError: so it is.
    """
    section = job.sentiment
    read_groups(section)
    prompts = read_prompts(section, SENTIMENT) if section.prompts else None
    if job.responses is not None:
        read_answers(job.responses, prompts)
    classifier_revision(section.classifier)


def evaluate_sentiment(session: Session) -> SentimentReport:
    """Does what is not done yet, and measures.

    Raises:
        KindlingError: the job, a file of it, its classifier or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    job, store, models = session.job, session.store, session.models
    section, groups = job.sentiment, read_groups(job.sentiment)
    prompts = read_prompts(section, SENTIMENT) if section.prompts else None
    given = {}
    if job.responses is not None:
        given[job.responses.label] = first_of_each(read_answers(job.responses, prompts), section.per_emotion)
    prompts = first_of_each(prompts, section.per_emotion) if prompts else []
    common = {
        "classifier": {**section.classifier.model_dump(), "found": classifier_revision(section.classifier)},
        "prompts": content_of([(prompt.emotion, prompt.text) for prompt in prompts]),
        "pooling": section.pooling,
        "groups": groups,
    }
    facts = {name: _model_facts(job, model, revision) for name, (model, revision) in models.items()}
    facts |= {name: _answer_facts(answers) for name, answers in given.items()}
    identities = {name: identity_of({SENTIMENT: common, **each}) for name, each in facts.items()}
    if left := session.undone(SENTIMENT, identities):
        with connect_to_ray(job.cluster.address):
            found, engines = {name: given[name] for name in left if name in given}, {}
            url = write_prompts(store, SENTIMENT, prompts) if models else ""
            # Each model's engines have the machine to themselves, and the classifier has it after them.
            for name in (name for name in left if name in models):
                with session.record_failure(name):
                    found[name], engines[name] = responses_of(job, models[name][0], SENTIMENT, prompts, url)
            for name, scores in _scored(session, found):
                with session.record_failure(name):
                    write_sentiment(store, name, found[name], scores, groups, identities[name], engines.get(name, {}))
    measured = [read_sentiment(store, name, groups) for name in identities if name not in session.failures]
    return SentimentReport(list(groups), measured, list(_comparisons(measured, groups, job.seed)))


def _answer_facts(answers: Sequence[Answer]) -> dict[str, str]:
    return {"responses": content_of([(answer.emotion, answer.prompt, answer.text) for answer in answers])}


def _model_facts(job: EvaluateJob, model: EvaluatedModel, revision: str) -> dict[str, Any]:
    """What decides a model's responses."""
    return {
        "model": {**model.model_dump(exclude={"name"}), "found": revision},
        "sampling": job.sampling.model_dump(),
        "engine": job.engine,
        "seed": job.seed,
    }


def _scored(session: Session, found: Mapping[str, list[Answer]]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and scores, of shape (responses, 28), of each model as soon as all of its responses are scored."""
    texts = {name: [answer.text or "" for answer in answers] for name, answers in found.items()}
    starts = [(name, at) for name, each in texts.items() for at in range(0, len(each), _TEXTS_AT_ONCE)]
    units = [texts[name][at : at + _TEXTS_AT_ONCE] for name, at in starts]
    scores = {name: np.zeros((len(each), len(EMOTIONS)), dtype=np.float32) for name, each in texts.items()}
    to_do = {name: len(each) for name, each in texts.items()}
    _log.info("scoring %d responses", sum(to_do.values()))
    section = session.job.sentiment
    load, work = partial(_load, with_absolute_path(section.classifier)), partial(_score, section.pooling)
    with session.progress.shown(SENTIMENT, "responses", to_do) as advance:
        for number, done in run_on_actors(load, work, units, session.job.cluster, session.stop_within):
            name, at = starts[number]
            scores[name][at : at + len(done)] = done
            to_do[name] -= len(done)
            advance(name, len(done))
            if not to_do[name]:
                yield name, scores[name]


def _load(section: Classifier, device: str, cores: int) -> EmotionClassifier:
    torch.set_num_threads(cores)
    return load_classifier(section, device)


def _score(pooling: str, classifier: EmotionClassifier, texts: list[str]) -> np.ndarray:
    return classifier.score(texts) if pooling == "whole" else score_documents(classifier, texts, pooling)


def _comparisons(
    measured: Sequence[ModelSentiment], groups: Mapping[str, Sequence[str]], seed: int
) -> Iterator[Comparison]:
    for second in measured[1:]:
        first = measured[0]
        both = [i for i, pair in enumerate(zip(first.labels, second.labels, strict=True)) if None not in pair]
        labels = [[model.labels[i] or BLANK for i in both] for model in (first, second)]
        emotions = first.emotions and [first.emotions[i] for i in both]
        if both:
            yield Comparison(first.name, second.name, compare_sentiment(*labels, emotions, groups, seed))


EVALUATION = Evaluation("sentiment", evaluate_sentiment, check_sentiment)

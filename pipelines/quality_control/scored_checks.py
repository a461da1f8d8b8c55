"""Checks by a model beside the engine: the emotion that a text expresses, and whether it keeps a meaning.

Texts of many rows are scored together, in a thread of their own: while one batch is scored, the next one gathers.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.quality_control.text_checks import source_texts
from schemas.emotions import EMOTIONS, NEGATIVE, NEUTRAL, POSITIVE
from schemas.quality import ExpressedEmotion, Meaning, Quality
from schemas.rows import RowError

EXPRESSED_EMOTION, MEANING = "expressed_emotion", "meaning"

_MAX_BATCH = 64


class ScoredCheck(Protocol):
    """Checks a text by a score."""

    @property
    def name(self) -> str:
        """Name of the check, under which its score is kept; the reason of rows that it rejects."""
        ...

    @property
    def min_score(self) -> float:
        """Smallest score of an accepted text."""
        ...

    def item(self, text: str, emotion: str, inputs: Mapping[str, Any]) -> Any:
        """Returns what is scored; None for a row that has nothing to check."""
        ...

    def load(self) -> Callable[[Sequence[Any]], Sequence[float]]:
        """Loads the model; returns the function that scores a batch of items."""
        ...


@dataclass(frozen=True)
class EmotionCheck:
    """Checks that a text expresses the emotion that its prompt asks for.

    Its score is the best score of a label that is asked for (the emotion, or its group), less the best of all others.
    """

    section: ExpressedEmotion
    name: str = EXPRESSED_EMOTION

    @property
    def min_score(self) -> float:
        """Smallest margin of an accepted text."""
        return self.section.min_margin

    def item(self, text: str, emotion: str, inputs: Mapping[str, Any]) -> tuple[str, str] | None:
        """Returns text and emotion; None where the prompt asks for no emotion."""
        return (text, emotion) if emotion else None

    def load(self) -> Callable[[Sequence[tuple[str, str]]], Sequence[float]]:
        """Loads the classifier."""
        from services.models.classifier import load_classifier
        from services.models.document_scores import calibrated_scores

        classifier, pooling = load_classifier(self.section.classifier), self.section.pooling

        def margins(items: Sequence[tuple[str, str]]) -> list[float]:
            texts = [text for text, _ in items]
            scores = calibrated_scores(classifier, texts, pooling)
            asked = np.array([self._labels(emotion) for _, emotion in items])
            return (np.where(asked, scores, -1).max(1) - np.where(asked, -1, scores).max(1)).tolist()

        return margins

    def _labels(self, emotion: str) -> list[bool]:
        wanted = {emotion}
        if self.section.level == "group":
            wanted = next(set(group) for group in (POSITIVE, NEUTRAL, NEGATIVE) if emotion in group)
        return [label in wanted for label in EMOTIONS]


@dataclass(frozen=True)
class MeaningCheck:
    """Checks that a text says what its source says: the cosine of their embeddings."""

    section: Meaning
    name: str = MEANING

    @property
    def min_score(self) -> float:
        """Smallest similarity of an accepted text."""
        return self.section.min_similarity

    def item(self, text: str, emotion: str, inputs: Mapping[str, Any]) -> tuple[str, str] | None:
        """Returns text and source; None for a row whose source is blank."""
        source = "\n".join(text for text in source_texts(inputs, self.section.source) if text.strip())
        return (text, source) if source else None

    def load(self) -> Callable[[Sequence[tuple[str, str]]], Sequence[float]]:
        """Loads the encoder."""
        from services.models.sentence_encoder import load_sentence_encoder

        return load_sentence_encoder(self.section.encoder).similarities


def scored_checks(quality: Quality) -> list[ScoredCheck]:
    """Returns the checks by a model that a job asks for."""
    checks: list[ScoredCheck] = []
    if quality.expressed_emotion is not None:
        checks.append(EmotionCheck(quality.expressed_emotion))
    if quality.meaning is not None:
        checks.append(MeaningCheck(quality.meaning))
    return checks


def revisions_of(quality: Quality) -> dict[str, str]:
    """Returns the revision of the model of each check, for the fingerprint of a run; reads no weights.

    Raises:
        EngineError: a model is missing, or has other labels.
    """
    revisions = {}
    if quality.expressed_emotion is not None:
        from services.models.classifier import classifier_revision  # it imports transformers, which takes seconds

        revisions[f"{EXPRESSED_EMOTION}_revision"] = classifier_revision(quality.expressed_emotion.classifier)
    if quality.meaning is not None:
        from services.models.sentence_encoder import sentence_encoder_revision

        revisions[f"{MEANING}_revision"] = sentence_encoder_revision(quality.meaning.encoder)
    return revisions


class BatchScorer:
    """Scores items of many rows in batches, on one thread; its model is loaded with the first item."""

    def __init__(self, check: ScoredCheck) -> None:
        self._check = check
        self._score: Callable[[Sequence[Any]], Sequence[float]] | None = None
        self._waiting: list[tuple[Any, asyncio.Future[float]]] = []
        self._task: asyncio.Task[None] | None = None

    async def score(self, item: Any) -> float:
        """Returns the score of an item.

        Raises:
            RowError: the model cannot be loaded, or fails on this batch.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            try:
                scores = await asyncio.to_thread(self._run, [item for item, _ in batch])
            except Exception as error:  # the rows of the batch fail, and name the check
                cause = f"{self._check.name}: {error}"
                for _, future in batch:
                    if not future.done():
                        future.set_exception(RowError(cause))
                continue
            for (_, future), score in zip(batch, scores, strict=True):
                if not future.done():  # its row may have been given up
                    future.set_result(float(score))

    def _run(self, items: Sequence[Any]) -> Sequence[float]:
        with _torch_lock:
            if self._score is None:
                import torch

                torch.set_num_threads(1)  # the engine has the other cores
                self._score = self._check.load()
            return self._score(items)


# Models of several checks and jobs of one replica are never run at the same time: each would take a core.
_torch_lock = threading.Lock()
_scorers: dict[str, BatchScorer] = {}


def scorer_of(check: ScoredCheck) -> BatchScorer:
    """Returns the scorer of a check in this process: jobs that share a replica share its models."""
    return _scorers.setdefault(repr(check), BatchScorer(check))

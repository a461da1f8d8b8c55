"""Trains an emotion classifier: a head on a frozen sentence encoder (a minute) or on words, or encoder and head.

A frozen encoder reads each text once, and the head is trained on its features. After every epoch the macro-F1 on the
development set is computed, with thresholds chosen on that set, and the best epoch is kept. The test set is used once,
at the end.
"""

import copy
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from schemas.emotions import EMOTIONS
from schemas.errors import RunError
from schemas.job import Model
from schemas.train import ClassifierStage
from services.models.diverged import refuse_diverged
from services.models.emotion_head import EmotionHead, save_head
from services.models.word_head import WordHead
from trainers.progress import LOGGING_STEPS, StageProgress
from trainers.text_encoder import TextEncoder, Words
from trainers.thresholds import best_thresholds, f1_by_label

_log = logging.getLogger("kindling")

_WARM_UP_SHARE = 0.06
# Number of batches that are sorted by length together. More of them mean less padding; fewer of them mean that a text
# meets other texts in each epoch.
_BATCHES_SORTED = 50
# Number of texts that set the scale of the head's inputs where the encoder is trained too: enough for a mean and a
# standard deviation, and read within seconds.
_SCALE_TEXTS = 2048


@dataclass(frozen=True)
class LabelledDataset:
    """Texts and their emotions.

    Attributes:
        texts: the texts.
        targets: float32 of shape (texts, 28): 1 where a text has the emotion, columns in the order of EMOTIONS.
    """

    texts: list[str]
    targets: np.ndarray


@dataclass(frozen=True)
class DatasetSplits:
    """Labelled texts to train on, to choose epoch and thresholds on (`dev`, the development set), and to test on."""

    train: LabelledDataset
    dev: LabelledDataset
    test: LabelledDataset


@dataclass(frozen=True)
class ClassifierReport:
    """Figures of a trained classifier.

    Attributes:
        macro_f1: mean of `f1` over all labels.
        dev_macro_f1: macro-F1 on the development set.
        f1: F1 on the test set by label, at the thresholds chosen on the development set.
        support: number of test texts with each label.
        thresholds: threshold of each label.
        top_label_share: share of test texts whose best-scored label is one of their labels.
        rows: number of texts in train, dev and test.
        best_epoch: number of the epoch that was kept, from 1.
    """

    macro_f1: float
    dev_macro_f1: float
    f1: dict[str, float]
    support: dict[str, int]
    thresholds: dict[str, float]
    top_label_share: float
    rows: dict[str, int]
    best_epoch: int

    def as_json(self) -> dict[str, Any]:
        """Returns the report in plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns the report as lines for a person."""
        correct = f"best-scored label correct in {self.top_label_share:.1%}; epoch {self.best_epoch}"
        return [f"macro-F1 {self.macro_f1:.3f} on {self.rows['test']} test texts, {correct}"]


def train_classifier(
    stage: ClassifierStage, model: Model, data: DatasetSplits, seed: int, folder: Path, progress: StageProgress
) -> ClassifierReport:
    """Trains a classifier, and writes it to a folder from which `services.models.classifier` loads it.

    On one kind of machine the same data and seed give the same weights, bit for bit.

    Args:
        stage: section of the job.
        model: section of the job that names the encoder.
        data: labelled texts.
        seed: seed of the head's weights, dropout and the order of the texts.
        folder: existing folder to write to.
        progress: display and metrics of the stage.

    Raises:
        EngineError: the encoder cannot be loaded.
    """
    torch.manual_seed(seed)
    encoder = Words(stage) if stage.encoder == "words" else TextEncoder(model, stage)
    head = encoder.head(stage)
    with progress:
        if isinstance(encoder, TextEncoder) and stage.encoder == "trained":
            epoch, dev_scores, test_scores = _train_head_and_encoder(stage, head, encoder, data, seed, progress)
        else:
            epoch, dev_scores, test_scores = _train_head(stage, head, encoder, data, seed, progress)
    # Rounded before the report is made: the report is on exactly the thresholds that are written.
    thresholds = best_thresholds(dev_scores, data.dev.targets).round(4)
    save_head(folder, head, encoder.save(folder, stage, tuple(round(float(threshold), 4) for threshold in thresholds)))
    return _report(thresholds, dev_scores, test_scores, data, epoch)


def _train_head(
    stage: ClassifierStage, head: EmotionHead | WordHead, encoder: TextEncoder | Words, data: DatasetSplits, seed: int,
    progress: StageProgress,
) -> tuple[int, np.ndarray, np.ndarray]:  # fmt: skip
    """Trains the head on features that are computed once.

    Returns:
        Number of the best epoch, and its scores of the development and test texts, each of shape (texts, 28).
    """
    _log.info("reading the texts")
    features, dev_features, test_features = (encoder.features(part.texts) for part in (data.train, data.dev, data.test))
    head.fit_scale(features)
    targets = torch.from_numpy(data.train.targets)
    steps = stage.epochs * -(-len(features) // stage.batch_size)
    optimizer = torch.optim.AdamW(head.parameters(), stage.learning_rate, weight_decay=stage.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(_WARM_UP_SHARE * steps), steps)
    draw = torch.Generator().manual_seed(seed)
    best = _BestEpoch(head, progress)
    progress.begin(steps, eval_steps=steps // stage.epochs)
    for epoch in range(stage.epochs):
        head.train()
        for batch in torch.randperm(len(features), generator=draw).split(stage.batch_size):
            loss = _step(head(features[batch]), targets[batch], optimizer, schedule)
            _report_step(progress, loss, schedule)
        best.evaluate(epoch, _scores(head, dev_features), data.dev)
    best.restore()
    _round_to_half(head)
    return best.epoch, _scores(head, dev_features), _scores(head, test_features)


def _train_head_and_encoder(
    stage: ClassifierStage, head: EmotionHead | WordHead, encoder: TextEncoder, data: DatasetSplits, seed: int,
    progress: StageProgress,
) -> tuple[int, np.ndarray, np.ndarray]:  # fmt: skip
    """Trains the head and the encoder together; returns the same as `_train_head`."""
    ids, targets = encoder.token_ids(data.train.texts), torch.from_numpy(data.train.targets)
    head.fit_scale(encoder.features(data.train.texts[:_SCALE_TEXTS]))
    steps = stage.epochs * -(-len(ids) // stage.batch_size)
    optimizer = torch.optim.AdamW(
        [
            {"params": head.parameters(), "lr": stage.learning_rate},
            {"params": encoder.model.parameters(), "lr": stage.encoder_learning_rate},
        ],
        weight_decay=stage.weight_decay,
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(_WARM_UP_SHARE * steps), steps)
    draw = torch.Generator().manual_seed(seed)
    both = nn.ModuleList([head, encoder.model])
    best = _BestEpoch(both, progress)
    progress.begin(steps, eval_steps=steps // stage.epochs)
    for epoch in range(stage.epochs):
        both.train()
        for batch in _shuffled_by_length([len(tokens) for tokens in ids], stage.batch_size, draw):
            texts = [ids[i] for i in batch]
            loss = _step(head(encoder.pooled(texts)), targets[batch], optimizer, schedule)
            _report_step(progress, loss, schedule, tokens=sum(map(len, texts)))
        best.evaluate(epoch, _scores(head, encoder.features(data.dev.texts)), data.dev)
    best.restore()
    _round_to_half(head)
    dev_scores, test_scores = (_scores(head, encoder.features(part.texts)) for part in (data.dev, data.test))
    return best.epoch, dev_scores, test_scores


def _step(logits: torch.Tensor, targets: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> torch.Tensor:
    """Takes one optimizer step, and returns the loss of its batch.

    Raises:
        RunError: the loss is not a finite number.
    """
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    if not bool(torch.isfinite(loss)):
        remedy = "lower learning_rate or encoder_learning_rate, or name another encoder in model.id"
        raise RunError("loss", None, "the classifier has diverged: its loss is not a finite number", remedy)
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss


def _round_to_half(head: EmotionHead | WordHead) -> None:
    """Rounds the head's weights to fp16, in which they are saved: so the report is on the saved weights."""
    head.half().float()


def _report_step(progress: StageProgress, loss: torch.Tensor, schedule: Any, tokens: int = 0) -> None:
    """Counts a step, and reports its loss at times. A head on a frozen encoder reads no tokens."""
    progress.on_step(tokens)
    if progress.step == 1 or progress.step % LOGGING_STEPS == 0:
        progress.on_loss(loss.item(), schedule.get_last_lr()[0])


def _shuffled_by_length(lengths: list[int], batch_size: int, draw: torch.Generator) -> Iterator[list[int]]:
    """Yields batches of text numbers, similar in length, in a new random order at each call."""
    batches: list[list[int]] = []
    for chunk in torch.randperm(len(lengths), generator=draw).split(batch_size * _BATCHES_SORTED):
        ordered = sorted(chunk.tolist(), key=lengths.__getitem__)
        batches += [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    for number in torch.randperm(len(batches), generator=draw).tolist():
        yield batches[number]


@torch.inference_mode()
def _scores(head: EmotionHead | WordHead, features: torch.Tensor) -> np.ndarray:
    """Returns the score of each label of each text, in [0, 1], shape (texts, 28).

    Raises:
        EngineError: a score is not a number.
    """
    head.eval()
    scores = head(features).sigmoid().numpy()
    refuse_diverged(scores, "the classifier", "scores", "stages.0")
    return scores


class _BestEpoch:
    """Keeps the weights of the best epoch by macro-F1 on the development set, and among equal ones by likelihood."""

    def __init__(self, model: nn.Module, progress: StageProgress) -> None:
        self._model, self._best, self._state = model, (-1.0, 0.0), model.state_dict()
        self._progress = progress
        self.epoch = 0

    def evaluate(self, epoch: int, scores: np.ndarray, dev: LabelledDataset) -> None:
        """Reports an epoch, and keeps a copy of the weights where they are better than all before.

        Args:
            epoch: number of the epoch, from 0.
            scores: scores of the development texts, shape (texts, 28).
            dev: the development set.
        """
        f1 = float(np.mean(f1_by_label(scores, dev.targets, best_thresholds(scores, dev.targets))))
        likelihood = np.log(np.clip(np.where(dev.targets > 0, scores, 1 - scores), 1e-7, 1)).mean()
        _log.info("epoch %d: macro-F1 %.4f, loss %.4f on the development set", epoch + 1, f1, -likelihood)
        self._progress.on_held_out(-likelihood)
        self._progress.resume()
        if (f1, likelihood) > self._best:
            self._best, self.epoch = (f1, likelihood), epoch + 1
            self._state = copy.deepcopy(self._model.state_dict())

    def restore(self) -> None:
        """Loads the weights of the best epoch into the model."""
        self._model.load_state_dict(self._state)


def _report(
    thresholds: np.ndarray, dev_scores: np.ndarray, test_scores: np.ndarray, data: DatasetSplits, epoch: int
) -> ClassifierReport:
    test, f1 = data.test.targets, f1_by_label(test_scores, data.test.targets, thresholds)
    return ClassifierReport(
        macro_f1=round(float(f1.mean()), 4),
        dev_macro_f1=round(float(f1_by_label(dev_scores, data.dev.targets, thresholds).mean()), 4),
        f1=_by_label(f1),
        support={emotion: int(number) for emotion, number in zip(EMOTIONS, test.sum(0), strict=True)},
        thresholds=_by_label(thresholds),
        top_label_share=round(float(test[np.arange(len(test)), test_scores.argmax(1)].mean()), 4),
        rows={"train": len(data.train.texts), "dev": len(data.dev.texts), "test": len(data.test.texts)},
        best_epoch=epoch,
    )


def _by_label(values: np.ndarray) -> dict[str, float]:
    return {emotion: round(float(value), 4) for emotion, value in zip(EMOTIONS, values, strict=True)}

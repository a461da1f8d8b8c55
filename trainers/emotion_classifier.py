"""Trains an emotion classifier: a head on a frozen sentence encoder (a minute), or the encoder with it.

A frozen encoder reads each text once; the head is then trained on what it said. Every epoch is judged on the
development set by macro-F1 with thresholds chosen there, and the best one is kept. The test set is looked at once.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, get_cosine_schedule_with_warmup

from schemas.emotions import EMOTIONS
from schemas.job import Model
from schemas.train import ClassifierStage
from services.models.checkpoints import locate
from services.models.classifier import batches_by_length, max_text_tokens, pad_tokens, translate_load_errors
from services.models.embedded import embedded_encoder
from services.models.emotion_head import EmotionHead, HeadConfig, pool_states, save_head
from services.observability.terminal import Bar
from trainers.progress import LOG_STEPS, StageProgress
from trainers.thresholds import best_thresholds, f1_by_label

_log = logging.getLogger("kindling")

_BATCH_TOKENS = 4096
_WARM_UP_SHARE = 0.06
# So many batches are sorted by length together: less padding, and still other company in each epoch.
_BATCHES_SORTED = 50


# Of an encoder that is trained: enough for a mean and a deviation, in seconds.
_TEXTS_OF_THE_SCALE = 2048


@dataclass(frozen=True)
class Labelled:
    """Texts and the emotions that hold for each.

    Attributes:
        targets: float32 of shape (texts, 28), 1 where a label holds.
    """

    texts: list[str]
    targets: np.ndarray


@dataclass(frozen=True)
class Splits:
    """The data of a training."""

    train: Labelled
    dev: Labelled
    test: Labelled


@dataclass(frozen=True)
class ClassifierReport:
    """What came of a training.

    Attributes:
        f1: on the test set, by label, at the thresholds chosen on the development set.
        support: test texts with each label.
        top_label_share: share of test texts whose best-scored label is among theirs.
        rows: texts of train, dev and test.
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
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        right = f"best-scored label right in {self.top_label_share:.1%}; epoch {self.best_epoch}"
        return [f"macro-F1 {self.macro_f1:.3f} on {self.rows['test']} test texts, {right}"]


def train_classifier(
    stage: ClassifierStage, model: Model, data: Splits, seed: int, folder: Path, progress: StageProgress
) -> ClassifierReport:
    """Trains, and writes the classifier to `folder`, which must be there; `services.models.classifier` loads it.

    On one kind of machine the same data and seed give the same weights, bit for bit.

    Args:
        progress: of the stage, to be told.

    Raises:
        EngineError: the encoder is not there.
    """
    torch.manual_seed(seed)
    reader = _Reader(model, stage)
    head = EmotionHead(reader.width, stage.hidden, stage.dropout)
    train = _train_head if stage.encoder == "frozen" else _train_both
    with progress:
        epoch, dev_scores, test_scores = train(stage, head, reader, data, seed, progress)
    # What is judged is what is written.
    thresholds = best_thresholds(dev_scores, data.dev.targets).round(4)
    # A frozen encoder that is not the packaged one has to lie beside its head.
    alone = stage.encoder == "frozen" and model.id == "embedded"
    if not alone:
        reader.encoder.save_pretrained(folder)
        reader.tokenizer.save_pretrained(folder)
    config = HeadConfig(
        "embedded" if alone else "here", reader.encoder.config.hidden_size, reader.layers, stage.hidden,
        stage.max_tokens,
        tuple(round(float(each), 4) for each in thresholds),
    )  # fmt: skip
    save_head(folder, head, config)
    return _report(thresholds, dev_scores, test_scores, data, epoch)


class _Reader:
    """An encoder with its tokenizer."""

    def __init__(self, model: Model, stage: ClassifierStage) -> None:
        path, revision = (str(embedded_encoder()), "") if model.id == "embedded" else locate(model)
        source = {"pretrained_model_name_or_path": path, "revision": None if Path(path).is_dir() else revision}
        with translate_load_errors("model.id", model.id):
            self.tokenizer = AutoTokenizer.from_pretrained(**source)
            self.encoder = AutoModel.from_pretrained(**source, use_safetensors=True, dtype=torch.float32)
        self._max_tokens = min(stage.max_tokens, max_text_tokens(self.tokenizer, self.encoder.config))
        # The embeddings below the first layer count as one.
        self.layers = min(stage.layers, self.encoder.config.num_hidden_layers + 1)
        self.width = 2 * self.encoder.config.hidden_size * self.layers

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return self.tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]

    def pooled(self, ids: list[list[int]]) -> torch.Tensor:
        """(texts, width)."""
        tokens, mask = pad_tokens(ids, self.tokenizer.pad_token_id or 0)
        return pool_states(self.encoder, tokens, mask, self.layers)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """`pooled` of all texts."""
        self.encoder.eval()
        ids = self.ids(texts)
        found = torch.empty(len(ids), self.width)
        with Bar("texts read", len(ids)) as bar:
            for batch in batches_by_length(np.array([len(each) for each in ids]), _BATCH_TOKENS):
                found[batch] = self.pooled([ids[i] for i in batch])
                bar.update(advance=len(batch))
        return found


def _train_head(
    stage: ClassifierStage, head: EmotionHead, reader: _Reader, data: Splits, seed: int, progress: StageProgress
) -> tuple[int, np.ndarray, np.ndarray]:
    _log.info("the encoder reads the texts")
    features, seen, unseen = (reader.features(each.texts) for each in (data.train, data.dev, data.test))
    head.fit_scale(features)
    targets = torch.from_numpy(data.train.targets)
    steps = stage.epochs * -(-len(features) // stage.batch_size)
    optimizer = torch.optim.AdamW(head.parameters(), stage.learning_rate, weight_decay=stage.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(_WARM_UP_SHARE * steps), steps)
    draw = torch.Generator().manual_seed(seed)
    best = _Best(head, progress)
    progress.begin(steps)
    for epoch in range(stage.epochs):
        head.train()
        for batch in torch.randperm(len(features), generator=draw).split(stage.batch_size):
            loss = _step(head(features[batch]), targets[batch], optimizer, schedule)
            _tell(progress, loss, schedule)
        best.judge(epoch, _scores(head, seen), data.dev)
    best.restore()
    head.half().float()
    return best.epoch, _scores(head, seen), _scores(head, unseen)


def _train_both(
    stage: ClassifierStage, head: EmotionHead, reader: _Reader, data: Splits, seed: int, progress: StageProgress
) -> tuple[int, np.ndarray, np.ndarray]:
    ids, targets = reader.ids(data.train.texts), torch.from_numpy(data.train.targets)
    head.fit_scale(reader.features(data.train.texts[:_TEXTS_OF_THE_SCALE]))
    steps = stage.epochs * -(-len(ids) // stage.batch_size)
    optimizer = torch.optim.AdamW(
        [
            {"params": head.parameters(), "lr": stage.learning_rate},
            {"params": reader.encoder.parameters(), "lr": stage.encoder_learning_rate},
        ],
        weight_decay=stage.weight_decay,
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(_WARM_UP_SHARE * steps), steps)
    draw = torch.Generator().manual_seed(seed)
    both = nn.ModuleList([head, reader.encoder])
    best = _Best(both, progress)
    progress.begin(steps)
    for epoch in range(stage.epochs):
        both.train()
        for batch in _shuffled_by_length([len(each) for each in ids], stage.batch_size, draw):
            texts = [ids[i] for i in batch]
            loss = _step(head(reader.pooled(texts)), targets[batch], optimizer, schedule)
            _tell(progress, loss, schedule, tokens=sum(map(len, texts)))
        best.judge(epoch, _scores(head, reader.features(data.dev.texts)), data.dev)
    best.restore()
    head.half().float()
    return best.epoch, *(_scores(head, reader.features(each.texts)) for each in (data.dev, data.test))


def _step(logits: torch.Tensor, targets: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> torch.Tensor:
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss


def _tell(progress: StageProgress, loss: torch.Tensor, schedule: Any, tokens: int = 0) -> None:
    """Tells of a step; a head on a frozen encoder reads no tokens."""
    progress.on_step(tokens)
    if progress.step == 1 or progress.step % LOG_STEPS == 0:
        progress.on_loss(loss.item(), schedule.get_last_lr()[0])


def _shuffled_by_length(lengths: list[int], batch_size: int, draw: torch.Generator) -> Iterator[list[int]]:
    """Batches of like lengths, drawn anew each time."""
    batches: list[list[int]] = []
    for part in torch.randperm(len(lengths), generator=draw).split(batch_size * _BATCHES_SORTED):
        ordered = sorted(part.tolist(), key=lengths.__getitem__)
        batches += [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    for number in torch.randperm(len(batches), generator=draw).tolist():
        yield batches[number]


@torch.inference_mode()
def _scores(head: EmotionHead, features: torch.Tensor) -> np.ndarray:
    head.eval()
    return head(features).sigmoid().numpy()


class _Best:
    """The best epoch of a model, by macro-F1 on the development set; of equal ones the likeliest."""

    def __init__(self, model: nn.Module, progress: StageProgress) -> None:
        self._model, self._best, self._state = model, (-1.0, 0.0), model.state_dict()
        self._progress = progress
        self.epoch = 0

    def judge(self, epoch: int, scores: np.ndarray, dev: Labelled) -> None:
        """Keeps the model as it is now, if it is better than before."""
        f1 = float(np.mean(f1_by_label(scores, dev.targets, best_thresholds(scores, dev.targets))))
        likelihood = np.log(np.clip(np.where(dev.targets > 0, scores, 1 - scores), 1e-7, 1)).mean()
        _log.info("epoch %d: macro-F1 %.4f, loss %.4f on the development set", epoch + 1, f1, -likelihood)
        self._progress.on_held_out(-likelihood)
        self._progress.resume()
        if (f1, likelihood) > self._best:
            self._best, self.epoch = (f1, likelihood), epoch + 1
            self._state = copy.deepcopy(self._model.state_dict())

    def restore(self) -> None:
        """Makes the model what it was at its best."""
        self._model.load_state_dict(self._state)


def _report(
    thresholds: np.ndarray, dev_scores: np.ndarray, test_scores: np.ndarray, data: Splits, epoch: int
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

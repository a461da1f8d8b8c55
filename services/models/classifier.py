"""Emotion classifiers: texts in, one score for each of GoEmotions' labels out.

`load_classifier` loads Kindling's own (`services.models.emotion_head`) or any Hugging Face sequence classifier.
Texts of similar length share a batch, and equal texts are scored once: on a corpus of short lines most of the cost
would be padding and repetition.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from schemas.emotions import EMOTIONS
from schemas.errors import EngineError
from schemas.job import Classifier, Model
from schemas.text import shorten
from services.models.checkpoints import content_hash, locate
from services.models.diverged import refuse_diverged
from services.models.embedded import embedded_encoder, encoder_version
from services.models.emotion_head import (
    CONFIG_NAME,
    SHIPPED_HEAD,
    SHIPPED_WORDS,
    EmotionHead,
    HeadConfig,
    load_head,
    pool_states,
)
from services.models.word_head import WordHead, WordTokenizer

# Tokens of one batch, padding included: as many as a CPU core's caches hold, and enough to keep a GPU busy.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
# Threshold of the paper, for classifiers without thresholds of their own.
_DEFAULT_THRESHOLD = 0.5
_SHIPPED = {"embedded": SHIPPED_HEAD, "embedded-words": SHIPPED_WORDS}
# Files of a classifier that describe it and do not change its scores.
_DESCRIPTION_FILES = ("README.md", "train.json")
# Texts that are tokenized and sorted at a time.
_WINDOW_TEXTS = 16_384

Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class EmotionClassifier:
    """A loaded classifier; made by `load_classifier`.

    Args:
        tokenizer: a Hugging Face tokenizer.
        logits: function from token ids and mask, both of shape (texts, tokens), to logits of shape (texts, outputs).
        order: for each label of EMOTIONS the output of the model with its logit.
        thresholds: threshold of each label.
        exclusive: whether the labels of a text exclude each other: softmax, else sigmoid.
        max_tokens: tokens after which a text is cut.
        device: cpu or cuda.
        revision: commit or content hash of the classifier.

    Attributes:
        name: id or path of the classifier.
        revision: commit or content hash of the classifier.
        thresholds: score from which on a label holds, shape (28,), in the order of EMOTIONS.
    """

    def __init__(
        self,
        tokenizer: Any,
        logits: Logits,
        order: Sequence[int],
        thresholds: Sequence[float],
        exclusive: bool,
        max_tokens: int,
        device: str,
        revision: str,
    ) -> None:
        self._tokenizer, self._logits, self._order = tokenizer, logits, list(order)
        self._exclusive, self._max_tokens, self._device = exclusive, max_tokens, device
        self.name = ""
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        self.revision = revision

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Scores texts, each cut after `max_tokens` tokens.

        Returns:
            Scores from 0 to 1, float32 of shape (texts, 28), columns in the order of EMOTIONS.

        Raises:
            EngineError: the classifier has diverged.
        """
        scores = np.empty((len(texts), len(EMOTIONS)), dtype=np.float32)
        for first in range(0, len(texts), _WINDOW_TEXTS):
            window = texts[first : first + _WINDOW_TEXTS]
            number = {text: i for i, text in enumerate(dict.fromkeys(window))}
            scores[first : first + len(window)] = self._score_window(list(number))[[number[text] for text in window]]
        return scores

    def _score_window(self, texts: list[str]) -> np.ndarray:
        """Scores different texts, in batches of similar length."""
        ids = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        lengths = np.array([len(tokens) for tokens in ids])
        scores = np.empty((len(texts), len(EMOTIONS)), dtype=np.float32)
        with torch.inference_mode():
            for batch in batches_by_length(lengths, _BATCH_TOKENS[self._device]):
                tokens, mask = pad_tokens([ids[i] for i in batch], self._tokenizer.pad_token_id or 0)
                logits = self._logits(tokens.to(self._device), mask.to(self._device)).float()
                refuse_diverged(logits, self.name, "logits", "classifier.id")
                probabilities = logits.softmax(-1) if self._exclusive else logits.sigmoid()
                scores[batch] = probabilities.cpu().numpy()[:, self._order]
        return scores


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Groups texts of similar length into batches.

    Args:
        lengths: tokens of each text.
        max_tokens: tokens of a batch, padding included; a longer text is a batch of its own.

    Yields:
        Numbers of the texts of a batch.
    """
    order = np.argsort(lengths, kind="stable")
    first = 0
    for i in range(len(order) + 1):
        if i == len(order) or (i > first and lengths[order[i]] * (i - first + 1) > max_tokens):
            if i > first:
                yield order[first:i]
            first = i


def pad_tokens(ids: list[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads texts to the length of the longest one.

    Returns:
        (token ids, mask), both int64 of shape (texts, tokens of the longest text).
    """
    width = max(1, *map(len, ids))  # a text may have no token at all
    tokens = np.full((len(ids), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for row, text in enumerate(ids):
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def load_classifier(section: Classifier, device: str = "cpu") -> EmotionClassifier:
    """Loads a classifier.

    Args:
        section: a job's section `classifier`.
        device: cpu or cuda.

    Raises:
        EngineError: the classifier is missing, cannot be loaded, or has other labels.
    """
    folder = _head_folder(section)
    classifier = _load_own(folder, section, device) if folder else _load_hugging_face(section, device)
    classifier.name = section.id
    return classifier


def classifier_revision(section: Classifier) -> str:
    """Commit or content hash of a classifier; reads no weights.

    Raises:
        EngineError: the classifier is missing, or has other labels.
    """
    if folder := _head_folder(section):
        return _own_revision(folder)
    path, revision = _locate(section)
    with translate_load_errors("classifier.id", section.id):
        config = AutoConfig.from_pretrained(path, revision=None if Path(path).is_dir() else revision)
    _label_order(section, config.id2label)
    return revision


def with_absolute_path(section: Classifier) -> Classifier:
    """Copies a section `classifier` for a process that runs in another folder."""
    path = Path(section.id).expanduser()
    return section.model_copy(update={"id": str(path.absolute())}) if path.is_dir() else section


@contextmanager
def translate_load_errors(key: str, value: str) -> Iterator[None]:
    """Turns the errors of loading a model with transformers inside the block into one that names the job-file key.

    Args:
        key: job-file key of the model.
        value: value of the key.

    Raises:
        EngineError: transformers cannot load the model.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # a broken file raises errors of many libraries, of any class
        cause = f"transformers cannot load it: {shorten(next(iter(str(error).splitlines()), type(error).__name__))}"
        raise EngineError(key, value, cause, "name a model of that kind whose weights are safetensors") from None


def max_text_tokens(tokenizer: Any, config: Any) -> int:
    """Largest number of tokens of one text that a model takes.

    Some tokenizers have no limit. Some models count positions from 2 on (RoBERTa), so 2 are left out for all.
    """
    return min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", sys.maxsize) - 2)


def _head_folder(section: Classifier) -> Path | None:
    """Folder of a classifier of Kindling's own; None for any other classifier."""
    if section.id in _SHIPPED:
        return _SHIPPED[section.id]
    folder = Path(section.id).expanduser()
    return folder if (folder / CONFIG_NAME).is_file() else None


def _own_revision(folder: Path) -> str:
    _, config = load_head(folder)
    encoder = f"-{encoder_version()}" if config.encoder == "embedded" else ""
    return content_hash(folder, leave_out=_DESCRIPTION_FILES) + encoder


def _load_own(folder: Path, section: Classifier, device: str) -> EmotionClassifier:
    """Loads a classifier of Kindling's own."""
    head, config = load_head(folder)
    head = head.to(device)
    if isinstance(head, WordHead):
        tokenizer, logits = WordTokenizer(config.width), lambda tokens, mask: head(tokens)
    else:
        tokenizer, logits = _load_encoder(folder, head, config, section.id, device)
    max_tokens = min(section.max_tokens, config.max_tokens)
    order = range(len(EMOTIONS))
    revision = _own_revision(folder)
    return EmotionClassifier(tokenizer, logits, order, config.thresholds, False, max_tokens, device, revision)


def _load_encoder(folder: Path, head: EmotionHead, config: HeadConfig, name: str, device: str) -> tuple[Any, Logits]:
    """Loads the encoder of a head; returns its tokenizer, and the function from tokens to logits."""
    encoder_folder = embedded_encoder() if config.encoder == "embedded" else folder
    with translate_load_errors("classifier.id", name):
        tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
        encoder = AutoModel.from_pretrained(encoder_folder, use_safetensors=True, dtype=torch.float32).eval().to(device)
    return tokenizer, lambda tokens, mask: head(pool_states(encoder, tokens, mask, config.layers))


def _load_hugging_face(section: Classifier, device: str) -> EmotionClassifier:
    """Loads a Hugging Face sequence classifier."""
    path, revision = _locate(section)
    source = {"pretrained_model_name_or_path": path, "revision": None if Path(path).is_dir() else revision}
    with translate_load_errors("classifier.id", section.id):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForSequenceClassification.from_pretrained(**source, use_safetensors=True, dtype=torch.float32)
    model = model.eval().to(device)

    def logits(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids=tokens, attention_mask=mask).logits

    max_tokens = min(section.max_tokens, max_text_tokens(tokenizer, model.config))
    order = _label_order(section, model.config.id2label)
    thresholds = [_DEFAULT_THRESHOLD] * len(EMOTIONS)
    # The transformers pipeline takes labels as exclusive too, if the model does not say otherwise.
    exclusive = model.config.problem_type != "multi_label_classification"
    return EmotionClassifier(tokenizer, logits, order, thresholds, exclusive, max_tokens, device, revision)


def _locate(section: Classifier) -> tuple[str, str]:
    """Locates a Hugging Face classifier, see `checkpoints.locate`; errors name the key `classifier`."""
    try:
        return locate(Model(id=section.id, revision=section.revision))
    except EngineError as error:
        key = error.key.replace("model.", "classifier.")
        raise EngineError(key, error.value, error.cause, error.remedy) from None


def _label_order(section: Classifier, names: dict[int, str]) -> list[int]:
    """Number of the model's output for each label of EMOTIONS.

    Args:
        names: label of each output of the model, `id2label` of its config.

    Raises:
        EngineError: the model has other labels.
    """
    number = {str(name).strip().lower(): int(i) for i, name in names.items()}
    if set(number) != set(EMOTIONS) or len(names) != len(EMOTIONS):
        raise EngineError(
            "classifier.id", section.id, f"its labels are {', '.join(number)}",
            f"name a classifier with GoEmotions' labels: {', '.join(EMOTIONS)}",
        )  # fmt: skip
    return [number[emotion] for emotion in EMOTIONS]

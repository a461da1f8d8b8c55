"""Emotion classifiers: texts in, a score for each of GoEmotions' labels out.

`load_classifier` loads Kindling's own (`services.models.emotion_head`) or any Hugging Face sequence classifier.
Sentences of like length share a batch, and equal ones are scored once: padding and repetition are most of what a
corpus of short lines would cost.
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
from services.models.embedded import embedded_encoder, encoder_version
from services.models.emotion_head import CONFIG_NAME, SHIPPED, load_head, pooled

# Tokens of one batch, padding included: what a core's caches hold, and enough to keep a GPU busy.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
# The paper's own threshold, for classifiers that come without any.
_THRESHOLD = 0.5
# Files of a classifier that tell of it, and change nothing.
_ABOUT = ("README.md", "train.json")
# Texts that are tokenized and sorted at a time.
_WINDOW_TEXTS = 16_384

Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class EmotionClassifier:
    """A loaded classifier. Made by `load_classifier`.

    Attributes:
        revision: commit or content hash of what was loaded.
        thresholds: of each label, in the order of EMOTIONS, shape (28,): a label holds where its score reaches this.
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
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        self.revision = revision

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Scores texts as they are, each cut at `max_tokens`.

        Returns:
            float32 of shape (texts, 28), columns in the order of EMOTIONS, each score in [0, 1].
        """
        scores = np.empty((len(texts), len(EMOTIONS)), dtype=np.float32)
        for low in range(0, len(texts), _WINDOW_TEXTS):
            window = texts[low : low + _WINDOW_TEXTS]
            number = {text: i for i, text in enumerate(dict.fromkeys(window))}
            scores[low : low + len(window)] = self._score(list(number))[[number[text] for text in window]]
        return scores

    def _score(self, texts: list[str]) -> np.ndarray:
        ids = self._tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        lengths = np.array([len(each) for each in ids])
        scores = np.empty((len(texts), len(EMOTIONS)), dtype=np.float32)
        with torch.inference_mode():
            for batch in batches_by_length(lengths, _BATCH_TOKENS[self._device]):
                tokens, mask = padded([ids[i] for i in batch], self._tokenizer.pad_token_id or 0)
                logits = self._logits(tokens.to(self._device), mask.to(self._device)).float()
                found = logits.softmax(-1) if self._exclusive else logits.sigmoid()
                scores[batch] = found.cpu().numpy()[:, self._order]
        return scores


def batches_by_length(lengths: np.ndarray, most_tokens: int) -> Iterator[np.ndarray]:
    """Numbers of the texts of each batch: like lengths together, and no more than `most_tokens` with their padding.

    Args:
        lengths: tokens of each text.
    """
    order = np.argsort(lengths, kind="stable")
    first = 0
    for i in range(len(order) + 1):
        if i == len(order) or (i > first and lengths[order[i]] * (i - first + 1) > most_tokens):
            if i > first:
                yield order[first:i]
            first = i


def padded(ids: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both int64 of shape (texts, tokens of the longest)."""
    longest = max(1, *map(len, ids))  # a text may have no token at all
    tokens = np.full((len(ids), longest), pad, dtype=np.int64)
    mask = np.zeros((len(ids), longest), dtype=np.int64)
    for row, each in enumerate(ids):
        tokens[row, : len(each)] = each
        mask[row, : len(each)] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def load_classifier(section: Classifier, device: str = "cpu") -> EmotionClassifier:
    """Loads a classifier.

    Args:
        device: cpu or cuda.

    Raises:
        EngineError: it is not there, or has other labels.
    """
    folder = _own_folder(section)
    return _own(folder, section, device) if folder else _hugging_face(section, device)


def classifier_revision(section: Classifier) -> str:
    """Commit or content hash of a classifier, without loading it.

    Raises:
        EngineError: it is not there, or has other labels.
    """
    if folder := _own_folder(section):
        return _own_revision(folder)
    path, revision = _located(section)
    with told_if_unloadable("classifier.id", section.id):
        config = AutoConfig.from_pretrained(path, revision=None if Path(path).is_dir() else revision)
    _order(section, config.id2label)
    return revision


def _own_folder(section: Classifier) -> Path | None:
    """Where a classifier of our own lies; None for any other."""
    if section.id == "embedded":
        return SHIPPED
    folder = Path(section.id).expanduser()
    return folder if (folder / CONFIG_NAME).is_file() else None


def _own_revision(folder: Path) -> str:
    _, config = load_head(folder)
    encoder = f"-{encoder_version()}" if config.encoder == "embedded" else ""
    return content_hash(folder, leave_out=_ABOUT) + encoder


def _located(section: Classifier) -> tuple[str, str]:
    try:
        return locate(Model(id=section.id, revision=section.revision))
    except EngineError as error:
        key = error.key.replace("model.", "classifier.")
        raise EngineError(key, error.value, error.cause, error.remedy) from None


def with_absolute_path(section: Classifier) -> Classifier:
    """The same classifier for a process that runs in another folder."""
    path = Path(section.id).expanduser()
    return section.model_copy(update={"id": str(path.absolute())}) if path.is_dir() else section


@contextmanager
def told_if_unloadable(key: str, value: str) -> Iterator[None]:
    """Tells what transformers cannot load.

    Raises:
        EngineError: so it is.
    """
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # of whatever class: what is wrong with a file is told by many libraries
        cause = f"transformers cannot load it: {shorten(next(iter(str(error).splitlines()), type(error).__name__))}"
        raise EngineError(key, value, cause, "name a model of that kind whose weights are safetensors") from None


def _own(folder: Path, section: Classifier, device: str) -> EmotionClassifier:
    head, config = load_head(folder)
    at = embedded_encoder() if config.encoder == "embedded" else folder
    with told_if_unloadable("classifier.id", section.id):
        tokenizer = AutoTokenizer.from_pretrained(at)
        encoder = AutoModel.from_pretrained(at, use_safetensors=True, dtype=torch.float32).eval().to(device)
    head = head.to(device)

    def logits(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return head(pooled(encoder, tokens, mask, config.layers))

    most = min(section.max_tokens, config.max_tokens)
    return EmotionClassifier(
        tokenizer, logits, range(len(EMOTIONS)), config.thresholds, False, most, device, _own_revision(folder)
    )


def _hugging_face(section: Classifier, device: str) -> EmotionClassifier:
    path, revision = _located(section)
    source = {"pretrained_model_name_or_path": path, "revision": None if Path(path).is_dir() else revision}
    with told_if_unloadable("classifier.id", section.id):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForSequenceClassification.from_pretrained(**source, use_safetensors=True, dtype=torch.float32)
    model = model.eval().to(device)

    def logits(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids=tokens, attention_mask=mask).logits

    most = min(section.max_tokens, most_tokens(tokenizer, model.config))
    return EmotionClassifier(
        tokenizer, logits, _order(section, model.config.id2label), [_THRESHOLD] * len(EMOTIONS),
        # As the transformers pipeline takes it, where the model does not say.
        model.config.problem_type != "multi_label_classification", most, device, revision,
    )  # fmt: skip


def most_tokens(tokenizer: Any, config: Any) -> int:
    """Of one text. Some models count positions from 2 (RoBERTa), and some tokenizers know no limit."""
    return min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", sys.maxsize) - 2)


def _order(section: Classifier, names: dict[int, str]) -> list[int]:
    """The model's output of each of our labels."""
    number = {str(name).strip().lower(): int(i) for i, name in names.items()}
    if set(number) != set(EMOTIONS) or len(names) != len(EMOTIONS):
        raise EngineError(
            "classifier.id", section.id, f"its labels are {', '.join(number)}",
            f"name a classifier with GoEmotions' labels: {', '.join(EMOTIONS)}",
        )  # fmt: skip
    return [number[emotion] for emotion in EMOTIONS]

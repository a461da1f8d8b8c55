"""Inputs of an emotion classifier's head: the states of a sentence encoder, or the words of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from schemas.job import Model
from schemas.train import ClassifierStage
from services.models.checkpoints import locate
from services.models.classifier import batches_by_length, max_text_tokens, pad_tokens, translate_load_errors
from services.models.embedded import embedded_encoder
from services.models.emotion_head import EmotionHead, HeadConfig, pool_states
from services.models.word_head import FEATURES, WordHead, WordTokenizer
from services.observability.terminal import Bar

_BATCH_TOKENS = 4096


class TextEncoder:
    """Sentence encoder with its tokenizer.

    Args:
        model: section of the job that names the encoder.
        stage: section of the job with the number of layers and of tokens to read.

    Attributes:
        tokenizer, model: tokenizer and model of transformers.
    """

    def __init__(self, model: Model, stage: ClassifierStage) -> None:
        path, revision = (str(embedded_encoder()), "") if model.id == "embedded" else locate(model)
        source = {"pretrained_model_name_or_path": path, "revision": None if Path(path).is_dir() else revision}
        with translate_load_errors("model.id", model.id):
            self.tokenizer = AutoTokenizer.from_pretrained(**source)
            self.model = AutoModel.from_pretrained(**source, use_safetensors=True, dtype=torch.float32)
        self._max_tokens = min(stage.max_tokens, max_text_tokens(self.tokenizer, self.model.config))
        # The embeddings below the first layer count as a layer too.
        self._layers = min(stage.layers, self.model.config.num_hidden_layers + 1)
        # The packaged encoder is on every machine. Any other one is saved beside its head.
        self._is_packaged = stage.encoder == "frozen" and model.id == "embedded"

    def head(self, stage: ClassifierStage) -> EmotionHead:
        """Makes an untrained head for the features."""
        return EmotionHead(2 * self.model.config.hidden_size * self._layers, stage.hidden, stage.dropout)

    def save(self, folder: Path, stage: ClassifierStage, thresholds: tuple[float, ...]) -> HeadConfig:
        """Writes the encoder to the folder of its head, and returns the head's config."""
        if not self._is_packaged:
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        encoder: Literal["embedded", "here"] = "embedded" if self._is_packaged else "here"
        width = self.model.config.hidden_size
        return HeadConfig(encoder, width, self._layers, stage.hidden, stage.max_tokens, thresholds)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, cut at the maximum length."""
        return self.tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]

    def pooled(self, ids: list[list[int]]) -> torch.Tensor:
        """Returns the features of texts given as token ids, shape (texts, width)."""
        tokens, mask = pad_tokens(ids, self.tokenizer.pad_token_id or 0)
        return pool_states(self.model, tokens, mask, self._layers)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """Returns the features of texts, without gradients, shape (texts, width)."""
        self.model.eval()
        ids = self.token_ids(texts)
        features = torch.empty(len(ids), 2 * self.model.config.hidden_size * self._layers)
        with Bar("texts read", len(ids)) as bar:
            for batch in batches_by_length(np.array([len(tokens) for tokens in ids]), _BATCH_TOKENS):
                features[batch] = self.pooled([ids[i] for i in batch])
                bar.update(advance=len(batch))
        return features


class Words:
    """Words of the texts, in place of a sentence encoder.

    Args:
        stage: section of the job with the number of words to read.
    """

    def __init__(self, stage: ClassifierStage) -> None:
        self._max_words = stage.max_tokens

    def head(self, stage: ClassifierStage) -> WordHead:
        """Makes an untrained head for the features."""
        return WordHead(FEATURES, stage.dropout)

    def save(self, folder: Path, stage: ClassifierStage, thresholds: tuple[float, ...]) -> HeadConfig:
        """Returns the head's config."""
        return HeadConfig("words", FEATURES, 0, 0, stage.max_tokens, thresholds)

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """Returns the numbers of the features of texts, shape (texts, features of the longest text), padded with 0."""
        tokenizer = WordTokenizer(FEATURES)
        ids = tokenizer(texts, truncation=True, max_length=self._max_words)["input_ids"]
        return pad_tokens(ids, tokenizer.pad_token_id)[0]

"""Sentence encoder of an emotion classifier: texts in, features for the classifier's head out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from schemas.job import Model
from schemas.train import ClassifierStage
from services.models.checkpoints import locate
from services.models.classifier import batches_by_length, max_text_tokens, pad_tokens, translate_load_errors
from services.models.embedded import embedded_encoder
from services.models.emotion_head import pool_states
from services.observability.terminal import Bar

_BATCH_TOKENS = 4096


class TextEncoder:
    """Sentence encoder with its tokenizer.

    Args:
        model: section of the job that names the encoder.
        stage: section of the job with the number of layers and of tokens to read.

    Attributes:
        tokenizer, model: tokenizer and model of transformers.
        layers: number of layers that the head reads, from the last one down.
        width: number of features of a text.
    """

    def __init__(self, model: Model, stage: ClassifierStage) -> None:
        path, revision = (str(embedded_encoder()), "") if model.id == "embedded" else locate(model)
        source = {"pretrained_model_name_or_path": path, "revision": None if Path(path).is_dir() else revision}
        with translate_load_errors("model.id", model.id):
            self.tokenizer = AutoTokenizer.from_pretrained(**source)
            self.model = AutoModel.from_pretrained(**source, use_safetensors=True, dtype=torch.float32)
        self._max_tokens = min(stage.max_tokens, max_text_tokens(self.tokenizer, self.model.config))
        # The embeddings below the first layer count as a layer too.
        self.layers = min(stage.layers, self.model.config.num_hidden_layers + 1)
        self.width = 2 * self.model.config.hidden_size * self.layers

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, cut at the maximum length."""
        return self.tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]

    def pooled(self, ids: list[list[int]]) -> torch.Tensor:
        """Returns the features of texts given as token ids, shape (texts, width)."""
        tokens, mask = pad_tokens(ids, self.tokenizer.pad_token_id or 0)
        return pool_states(self.model, tokens, mask, self.layers)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """Returns the features of texts, without gradients, shape (texts, width)."""
        self.model.eval()
        ids = self.token_ids(texts)
        features = torch.empty(len(ids), self.width)
        with Bar("texts read", len(ids)) as bar:
            for batch in batches_by_length(np.array([len(tokens) for tokens in ids]), _BATCH_TOKENS):
                features[batch] = self.pooled([ids[i] for i in batch])
                bar.update(advance=len(batch))
        return features

"""Sentence encoders: how near the meanings of two texts are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from schemas.errors import EngineError
from schemas.job import Model
from services.models.checkpoints import locate
from services.models.classifier import batches_by_length, max_text_tokens, pad_tokens, translate_load_errors
from services.models.diverged import refuse_diverged
from services.models.embedded import embedded_encoder, encoder_version

_BATCH_TOKENS = 4096


class SentenceEncoder:
    """A loaded encoder, on the CPU; made by `load_sentence_encoder`.

    Args:
        tokenizer: a Hugging Face tokenizer.
        encoder: a Hugging Face encoder.
        name: its id, for errors.
    """

    def __init__(self, tokenizer: Any, encoder: Any, name: str) -> None:
        self._tokenizer, self._encoder, self._name = tokenizer, encoder, name
        self._max_tokens = max_text_tokens(tokenizer, encoder.config)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the mean of each text's last hidden states, of length 1; float32 of shape (texts, hidden width).

        The rest of a text is left out where it is longer than the encoder reads (256 tokens for the embedded one).
        """
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        vectors = np.zeros((len(texts), self._encoder.config.hidden_size), dtype=np.float32)
        with torch.inference_mode():
            for batch in batches_by_length(np.array([len(tokens) for tokens in ids]), _BATCH_TOKENS):
                tokens, mask = pad_tokens([ids[i] for i in batch], self._tokenizer.pad_token_id or 0)
                states = self._encoder(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
                refuse_diverged(states, self._name, "hidden states", "quality.meaning.encoder")
                is_token = mask.unsqueeze(-1)
                mean = (states * is_token).sum(1) / is_token.sum(1).clamp(min=1)
                vectors[batch] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Returns the cosine of the two texts of each pair, -1 to 1; 1 for equal texts."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vector_of = dict(zip(texts, self.embed(texts), strict=True))
        return [float(vector_of[one] @ vector_of[other]) for one, other in pairs]


def load_sentence_encoder(encoder: str) -> SentenceEncoder:
    """Loads an encoder.

    Args:
        encoder: `embedded`, or the hub id or local folder of a Hugging Face encoder.

    Raises:
        EngineError: the encoder is missing, or cannot be loaded.
    """
    path, _ = _locate(encoder)
    with translate_load_errors("quality.meaning.encoder", encoder):
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, use_safetensors=True, dtype=torch.float32).eval()
    return SentenceEncoder(tokenizer, model, encoder)


def sentence_encoder_revision(encoder: str) -> str:
    """Returns the version, commit or content hash of an encoder; reads no weights.

    Raises:
        EngineError: the encoder is missing.
    """
    return _locate(encoder)[1]


def _locate(encoder: str) -> tuple[str | Path, str]:
    if encoder == "embedded":
        return embedded_encoder(), encoder_version()
    try:
        return locate(Model(id=encoder))
    except EngineError as error:
        raise EngineError("quality.meaning.encoder", error.value, error.cause, error.remedy) from None

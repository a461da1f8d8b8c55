"""Emotion classifier without an encoder: a linear head on the words and the character sequences of a text.

It reads what is written and nothing of what it means, so it makes other mistakes than a head on a sentence encoder
does. Words, pairs of words and character sequences are hashed into a fixed number of features: there is no vocabulary.
"""

import re
import zlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from schemas.emotions import EMOTIONS

FEATURES = 1 << 16
"""number of features of a new head; feature 0 is padding"""
_CHARACTERS = (3, 4, 5)
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


class WordTokenizer:
    """Turns texts into the numbers of their features; called as a tokenizer of transformers is.

    Args:
        features: number of features of the head.
    """

    pad_token_id = 0

    def __init__(self, features: int) -> None:
        self._features = features

    def __call__(self, texts: Sequence[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        """Returns the different features of each text, of its first `max_length` words and signs."""
        return {"input_ids": [sorted({self._number(part) for part in _parts(text, max_length)}) for text in texts]}

    def _number(self, part: str) -> int:
        return 1 + zlib.crc32(part.encode()) % (self._features - 1)


def _parts(text: str, max_words: int) -> Iterator[str]:
    """Yields words, pairs of neighbouring words, and the character sequences of each word."""
    words = _WORD.findall(text.lower().replace("\u2019", "'"))[:max_words]
    yield from words
    for pair in zip(["", *words], [*words, ""], strict=True):
        yield " ".join(pair)
    for word in words:
        marked = f"<{word}>"
        for size in _CHARACTERS:
            for start in range(len(marked) - size + 1):
                yield "#" + marked[start : start + size]


class WordHead(nn.Module):
    """Turns the features of a text into one logit for each label.

    Each feature counts by its inverse document frequency, and the features of a text have length 1 together.

    Args:
        features: number of features.
        dropout: share of features left out in training.

    Attributes:
        idf: inverse document frequency of each feature over the training texts, shape (features,).
    """

    idf: torch.Tensor

    def __init__(self, features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("idf", torch.ones(features))
        self.weight = nn.Parameter(torch.zeros(features, len(EMOTIONS)))
        self.bias = nn.Parameter(torch.zeros(len(EMOTIONS)))
        self.dropout = nn.Dropout(dropout)

    def fit_scale(self, numbers: torch.Tensor) -> None:
        """Fits `idf` to the features of the training texts, shape (texts, features of the longest text)."""
        texts = torch.bincount(numbers.flatten(), minlength=len(self.idf))
        self.idf.copy_(torch.log((1 + len(numbers)) / (1 + texts)) + 1)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Turns features of shape (texts, features of the longest text) into logits of shape (texts, labels)."""
        numbers = numbers[:, : max(1, int((numbers > 0).sum(1).max()))]  # padding takes time
        values = self.idf[numbers] * (numbers > 0)
        values = self.dropout(values / values.norm(dim=1, keepdim=True).clamp(min=1e-6))
        return nn.functional.embedding_bag(numbers, self.weight, per_sample_weights=values, mode="sum") + self.bias

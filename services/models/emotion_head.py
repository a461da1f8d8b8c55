"""Kindling's own emotion classifiers: a sentence encoder, and a small head on its pooled hidden states.

A checkpoint is a folder with emotion_head.json and emotion_head.safetensors. If the encoder was trained too, the folder
also holds it as a plain transformers checkpoint. A checkpoint whose head reads words (`services.models.word_head`) has
no encoder. `trainers.emotion_classifier` trains a checkpoint, and `services.models.classifier` serves it. The two that
ship with Kindling lie in services/models/shipped_head/ and shipped_words/.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from schemas.emotions import EMOTIONS
from schemas.errors import EngineError
from services.models.word_head import WordHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_NAME = "emotion_head.json"
_WEIGHTS_NAME = "emotion_head.safetensors"
HEAD_FILES = (CONFIG_NAME, _WEIGHTS_NAME)
SHIPPED_HEAD = Path(__file__).with_name("shipped_head")
SHIPPED_WORDS = Path(__file__).with_name("shipped_words")


@dataclass(frozen=True)
class HeadConfig:
    """Content of emotion_head.json.

    Attributes:
        encoder: embedded: the encoder that a package ships; here: the checkpoint in the same folder; words: none, the
            head is a `WordHead`.
        width: width of the encoder's hidden states; with words the number of features.
        layers: number of the encoder's last layers that the head reads; with words 0.
        hidden: units of the head's one hidden layer; with words 0.
        max_tokens: tokens after which a text is cut; with words, words and signs.
        thresholds: threshold of each label, in the order of `labels`, with the best F1 on the development set.
        labels: names of the labels, in the order of the head's outputs.
    """

    encoder: Literal["embedded", "here", "words"]
    width: int
    layers: int
    hidden: int
    max_tokens: int
    thresholds: tuple[float, ...]
    labels: tuple[str, ...] = EMOTIONS


class EmotionHead(nn.Module):
    """Turns the pooled states of a text (see `pool_states`) into one logit for each label.

    Args:
        width: size of the pooled states of a text: 2 x hidden width x layers.
        hidden: units of the hidden layer.
        dropout: share of inputs and of hidden units left out in training.

    Attributes:
        mean: mean of each input over the training texts, shape (width,).
        deviation: standard deviation of each input over the training texts, shape (width,).
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        # Inputs are scaled, because maxima lie on another scale than means. The scale is fixed and not that of each
        # batch: a batch holds texts of one length, which may share an emotion.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, len(EMOTIONS))
        self.dropout = nn.Dropout(dropout)

    def fit_scale(self, pooled: torch.Tensor) -> None:
        """Fits `mean` and `deviation` to the pooled states of the training texts, shape (texts, width)."""
        self.mean.copy_(pooled.mean(0))
        self.deviation.copy_(pooled.std(0, correction=0).clamp(min=1e-3))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Turns pooled states of shape (texts, width) into logits of shape (texts, labels)."""
        scaled = (pooled - self.mean) / self.deviation
        hidden = nn.functional.gelu(self.hidden(self.dropout(scaled)))
        return self.out(self.dropout(hidden))


def pool_states(encoder: "PreTrainedModel", tokens: torch.Tensor, mask: torch.Tensor, layers: int) -> torch.Tensor:
    """Pools the hidden states of an encoder's last layers: mean and maximum over each text's tokens.

    Several layers are read, because the last one holds mostly what the encoder was trained for: what a text says, and
    less of how it says it.

    Args:
        tokens: token ids, shape (texts, tokens).
        mask: 1 for a token and 0 for padding, shape (texts, tokens).
        layers: number of last layers.

    Returns:
        Pooled states, shape (texts, 2 x hidden width x layers).
    """
    states = encoder(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states[-layers:]
    is_token = mask.unsqueeze(-1).bool()
    lengths = is_token.sum(1)
    parts = []
    for state in states:
        parts.append((state * is_token).sum(1) / lengths)
        parts.append(state.masked_fill(~is_token, torch.finfo(state.dtype).min).amax(1))
    return torch.cat(parts, dim=1)


def save_head(folder: Path, head: EmotionHead | WordHead, config: HeadConfig) -> None:
    """Writes a head, with weights in half precision: at most 1 MB, and 4 MB with words."""
    weights = save({name: value.half().contiguous() for name, value in head.state_dict().items()})
    (folder / _WEIGHTS_NAME).write_bytes(weights)
    (folder / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2) + "\n")


def load_head(folder: Path) -> tuple[EmotionHead | WordHead, HeadConfig]:
    """Reads the files that `save_head` wrote.

    Raises:
        EngineError: the head was trained on other labels, or its files cannot be read or do not fit each other.
    """
    try:
        config = HeadConfig(**json.loads((folder / CONFIG_NAME).read_text()))
        weights = {name: value.float() for name, value in load_file(folder / _WEIGHTS_NAME).items()}
        is_of_words = config.encoder == "words"
        head = WordHead(config.width) if is_of_words else EmotionHead(2 * config.width * config.layers, config.hidden)
        if len(config.thresholds) != len(config.labels):
            raise ValueError(f"{len(config.thresholds)} thresholds for {len(config.labels)} labels")
        head.load_state_dict(weights)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise EngineError(
            "classifier.id", str(folder), f"its head cannot be read: {error}", "train it again with `kindling train`"
        ) from None
    if tuple(config.labels) != EMOTIONS:
        raise EngineError(
            "classifier.id", str(folder), f"its labels are {', '.join(config.labels)}",
            f"name a classifier with GoEmotions' labels: {', '.join(EMOTIONS)}",
        )  # fmt: skip
    return head.eval(), config

"""Kindling's own emotion classifier: a sentence encoder, and a small head over its pooled tokens.

A checkpoint is a folder with emotion_head.json and emotion_head.safetensors; one whose encoder was trained too holds
that as well, as a plain transformers checkpoint. Trained by `trainers.emotion_classifier`, served by
`services.models.classifier`. The head that ships with Kindling lies in services/models/shipped_head/.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from schemas.emotions import EMOTIONS
from schemas.errors import EngineError

CONFIG_NAME = "emotion_head.json"
_WEIGHTS_NAME = "emotion_head.safetensors"
FILES = (CONFIG_NAME, _WEIGHTS_NAME)
SHIPPED = Path(__file__).with_name("shipped_head")


@dataclass(frozen=True)
class HeadConfig:
    """What emotion_head.json says.

    Attributes:
        encoder: embedded: the one that a package ships; here: the checkpoint in the same folder.
        width: of the encoder's hidden states.
        layers: of the encoder, that the head reads, from the last one down.
        hidden: units of the head's one hidden layer.
        max_tokens: of one text; what is longer is cut.
        thresholds: of each label, in the order of `labels`: those that gave the best F1 on the development set.
        labels: names, in the order of the head's outputs.
    """

    encoder: Literal["embedded", "here"]
    width: int
    layers: int
    hidden: int
    max_tokens: int
    thresholds: tuple[float, ...]
    labels: tuple[str, ...] = EMOTIONS


class EmotionHead(nn.Module):
    """What `pooled` says of a text to one logit a label.

    Args:
        width: numbers that `pooled` gives of a text: 2 x hidden width x layers.
        hidden: units of the hidden layer.
        dropout: share of inputs and of hidden units left out in training.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        # Maxima lie on another scale than means. No batch's own statistics: batches are of texts of one length, which
        # may be of one emotion.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, len(EMOTIONS))
        self.dropout = nn.Dropout(dropout)

    def fit_scale(self, pooled: torch.Tensor) -> None:
        """Takes the scale of what it will be shown from (texts, width) of it."""
        self.mean.copy_(pooled.mean(0))
        self.deviation.copy_(pooled.std(0, correction=0).clamp(min=1e-3))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(texts, width) to logits (texts, labels)."""
        scaled = (pooled - self.mean) / self.deviation
        hidden = nn.functional.gelu(self.hidden(self.dropout(scaled)))
        return self.out(self.dropout(hidden))


def pooled(encoder: nn.Module, tokens: torch.Tensor, mask: torch.Tensor, layers: int) -> torch.Tensor:
    """Mean and maximum over each text's own tokens, of the encoder's last layers.

    The last layer alone holds what the encoder was trained for, which texts say the same, and less of how they say it.

    Args:
        tokens: ids, (texts, tokens).
        mask: 1 for a token, 0 for padding, (texts, tokens).

    Returns:
        (texts, 2 x hidden width x layers).
    """
    states = encoder(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states[-layers:]
    there = mask.unsqueeze(-1).bool()
    lengths = there.sum(1)
    parts = []
    for each in states:
        parts.append((each * there).sum(1) / lengths)
        parts.append(each.masked_fill(~there, torch.finfo(each.dtype).min).amax(1))
    return torch.cat(parts, dim=1)


def save_head(folder: Path, head: EmotionHead, config: HeadConfig) -> None:
    """Writes a head, its weights in half precision: at most 1 MB."""
    weights = save({name: value.half().contiguous() for name, value in head.state_dict().items()})
    (folder / _WEIGHTS_NAME).write_bytes(weights)
    (folder / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=2) + "\n")


def load_head(folder: Path) -> tuple[EmotionHead, HeadConfig]:
    """Reads what `save_head` wrote.

    Raises:
        EngineError: the folder's head was trained on other labels, or its files do not belong together.
    """
    try:
        config = HeadConfig(**json.loads((folder / CONFIG_NAME).read_text()))
        weights = {name: value.float() for name, value in load_file(folder / _WEIGHTS_NAME).items()}
        head = EmotionHead(2 * config.width * config.layers, config.hidden)
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

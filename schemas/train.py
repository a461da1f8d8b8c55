"""The job file of `kindling train`."""

from typing import Literal

from pydantic import Field

from schemas.job import Model, Section, Url


class LabelledTexts(Section):
    """Texts with their emotions."""

    train: Url
    """a table with texts and the names of their emotions, or a .tsv in GoEmotions' format: no header; text, label
    numbers, anything"""
    dev: Url | float = 0.1
    """another such file, or a share of `train`; thresholds are chosen on it"""
    test: Url | float = 0.1
    """another such file, or a share of `train`; the figures are of it"""
    columns: dict[str, str] = Field(default_factory=dict)
    """text and emotions -> column, where the names differ"""
    credit: str = ""
    """whose data it is, for the model card"""


class ClassifierStage(Section):
    """An emotion classifier: a head on a sentence encoder."""

    kind: Literal["classifier"]
    data: LabelledTexts
    encoder: Literal["frozen", "trained"] = "frozen"
    layers: int = Field(3, gt=0)
    """of the encoder, that the head reads, from the last one down"""
    hidden: int = Field(200, gt=0)
    """units of the head's hidden layer"""
    dropout: float = Field(0.3, ge=0, lt=1)
    epochs: int = Field(30, gt=0)
    batch_size: int = Field(256, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    """of the head"""
    encoder_learning_rate: float = Field(5e-5, gt=0)
    """of an encoder that is trained too"""
    weight_decay: float = Field(0.01, ge=0)
    max_tokens: int = Field(128, gt=2)
    """of one text; what is longer is cut"""


class TrainOutput(Section):
    """Where the model goes."""

    path: str = Field(min_length=1)
    """a local folder"""


class TrainJob(Section):
    """A train job: a model through stages."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    model: Model = Model()
    """of a classifier: the encoder; `embedded` is the packaged one"""
    stages: list[ClassifierStage] = Field(min_length=1, max_length=1)
    output: TrainOutput
    license: str | None = None
    """of the model, for its card, as the Hub names it: cc-by-4.0"""
    seed: int = 0

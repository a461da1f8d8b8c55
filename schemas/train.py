"""The job file of `kindling train`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.compose import Part
from schemas.job import Metrics, Model, Section, Url
from schemas.minimal_pairs import MinimalPairs

PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


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


class Optimizer(Section):
    """How a language model is trained; by default as the paper's section 3 says."""

    learning_rate: float = Field(2e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(4, gt=0)
    """examples in one forward pass"""
    accumulation: int = Field(8, gt=0)
    """forward passes to a step"""
    epochs: float = Field(10, gt=0)
    """at most"""
    max_steps: int | None = Field(None, gt=0)
    """at most, where epochs are too long"""
    eval_steps: int = Field(200, gt=0)
    """from one evaluation, and checkpoint, to the next"""
    patience: int = Field(10, gt=0)
    """evaluations without a lower loss, after which the stage ends"""
    gradient_checkpointing: bool = False
    """computes activations twice, and keeps fewer of them: less memory, a third slower"""


class Lora(Section):
    """Trains low-rank adapters in place of the weights; they are merged into the weights at the end."""

    rank: int = Field(8, gt=0)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """names of the layers that get one"""


class GrammarGuard(MinimalPairs):
    """Keeps no weights that have lost grammar: minimal pairs are scored at each evaluation."""

    pairs: int = Field(1000, gt=0)
    """in all, drawn by the seed, equally many of each paradigm"""
    max_drop: float = Field(0.02, gt=0, lt=1)
    """the most that accuracy may have fallen by, with 95% confidence, from that of the stage's first model; a share"""


class LanguageStage(Section):
    """What both kinds of stages of a language model have."""

    parts: dict[PartName, Part] = Field(min_length=1)
    """augmented runs, and files or datasets"""
    dev: float = Field(0.02, gt=0, lt=0.5)
    """share of the input rows that are held out, by a hash of which row it is"""
    dev_examples: int = Field(500, gt=0)
    """of those, so many at most are looked at"""
    max_length: int | None = Field(None, gt=1)
    """tokens of an example; by default what the model takes, and 1024 at most"""
    optimizer: Optimizer = Optimizer()
    lora: Lora | None = None
    kl: float = Field(0.0, ge=0)
    """weight of the KL divergence from the stage's first model, which keeps its language; 0 leaves it out"""
    blimp: GrammarGuard | None = Field(None, exclude_if=lambda blimp: blimp is None)
    """of the evaluations whose model still has its grammar, the one with the lowest loss is kept"""


class ClmStage(LanguageStage):
    """Plain text: the next token of every document."""

    kind: Literal["clm"]
    words: int | None = Field(None, gt=0)
    """of all parts together; a part's `weight` is its share of what parts with `words` leave"""
    packing: bool = True
    """documents end to end, cut into examples of `max_length`: no padding, nothing too long"""
    too_long: Literal["split", "truncate", "drop"] = "split"
    """documents above `max_length`, where they are not packed"""

    @model_validator(mode="after")
    def _weighed(self) -> "ClmStage":
        if self.words is None and any(part.weight is not None for part in self.parts.values()):
            raise ValueError("a part's weight is a share of `words`, which the stage does not give")
        return self


class SftStage(LanguageStage):
    """Prompts and completions, or conversations: the loss is of the completion, or the assistant's turns, alone."""

    kind: Literal["sft"]
    messages: str | None = Field(None, exclude_if=lambda column: column is None)
    """the column of conversations, in place of prompt and completion: a list of {role, content}. Of a run, `text`
    answers one that does not end with the assistant's turn"""
    prompt: Annotated[list[str], Field(min_length=1)] | None = Field(
        default_factory=lambda given: None if given.get("messages") else ["instruction", "input"],
        exclude_if=lambda columns: columns is None,
    )
    """columns that make the prompt, a blank line between them; blank ones but the first are left out. Of a run, its
    rows' `inputs` too"""
    completion: str | None = Field(
        default_factory=lambda given: None if given.get("messages") else "text",
        exclude_if=lambda column: column is None,
    )
    """the column that the model is to write"""
    too_long: Literal["truncate", "drop"] = "truncate"
    """rows above `max_length`; a prompt that leaves no room is dropped"""
    replay: dict[PartName, Part] = Field(default_factory=dict)
    """general text, mixed in as documents to keep the language; `words` of a part says how much"""

    @model_validator(mode="after")
    def _whole(self) -> "SftStage":
        if (self.messages is None) == (self.prompt is None) or (self.prompt is None) != (self.completion is None):
            raise ValueError("give either messages, or prompt and completion")
        if any(part.words is not None or part.weight is not None for part in self.parts.values()):
            raise ValueError("a part of rows is taken whole; input.limit takes the first ones")
        if any(part.weight is not None for part in self.replay.values()):
            raise ValueError("a part to replay has `words`, and no weight")
        return self


Stage = Annotated[ClassifierStage | ClmStage | SftStage, Field(discriminator="kind")]


class FromConfig(Section):
    """GPT-2's architecture with random weights."""

    layers: int = Field(12, gt=0)
    heads: int = Field(12, gt=0)
    width: int = Field(768, gt=0)
    """of a token's state; a multiple of `heads`"""
    context: int = Field(1024, gt=1)
    """tokens that the model can take"""

    @model_validator(mode="after")
    def _divided(self) -> "FromConfig":
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) is no multiple of heads ({self.heads})")
        return self


class TrainModel(Model):
    """What training starts from."""

    from_config: FromConfig | None = Field(None, exclude_if=lambda sizes: sizes is None)
    """a new model of these sizes; of `id` it takes the tokenizer alone"""

    @model_validator(mode="after")
    def _trainable(self) -> "TrainModel":
        if self.dtype != "auto" or self.quantization is not None:
            raise ValueError("dtype and quantization are of serving; training has `precision`")
        return self


class TrainOutput(Section):
    """Where the model goes."""

    path: str = Field(min_length=1)
    """a local folder"""

    @model_validator(mode="after")
    def _local(self) -> "TrainOutput":
        if "://" in self.path:
            raise ValueError("a model is trained into a local or mounted folder")
        return self


class Resources(Section):
    """What a training gets where it is one of several, each a Ray task. Alone in its process it takes what is there."""

    gpus: float | None = Field(None, ge=0, le=1)
    """a part of one lets others train on the rest; default: one for a language model where the cluster has any"""
    cpus: int | None = Field(None, gt=0)
    """cores, and threads that compute on them; default: one beside a GPU, else an equal share of a node's"""


class TrainJob(Section):
    """A train job: a model through stages."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    model: TrainModel = TrainModel()
    """of a classifier: the encoder; `embedded` is the packaged one"""
    stages: list[Stage] = Field(min_length=1)
    """one classifier, or stages of a language model, each of which goes on from the one before"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", exclude_if=lambda value: value == "auto")
    """of a language model's arithmetic; its weights are kept in fp32. auto: bf16 on a GPU that has it, else fp16; on a
    CPU fp32"""
    resources: Resources = Resources()
    output: TrainOutput
    license: str | None = None
    """of the model, for its card, as the Hub names it: cc-by-4.0"""
    metrics: Metrics = Field(Metrics(), exclude_if=lambda section: section == Metrics())
    seed: int = 0

    @model_validator(mode="after")
    def _fitting(self) -> "TrainJob":
        if any(stage.kind == "classifier" for stage in self.stages):
            if len(self.stages) > 1:
                raise ValueError("a classifier is a job of its own, with one stage")
            if self.model.from_config or self.precision != "auto":
                raise ValueError("from_config and precision are a language model's")
        return self

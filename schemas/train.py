"""The job file of `kindling train`: a language model goes through stages, or an emotion classifier is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.compose import Part
from schemas.job import Delimiter, Metrics, Model, Quotes, Section, Url
from schemas.minimal_pairs import MinimalPairs

PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class LabelledTexts(Section):
    """Texts with their emotions, split into texts to train on, to choose thresholds on, and to test on."""

    train: Url
    """texts to train on: a table with the columns `text` and `emotions`, or a .tsv file in GoEmotions' format (no
    header; text, label numbers, anything)"""
    dev: Url | float = 0.1
    """texts on which the thresholds of the labels are chosen: another file, or a share of `train`"""
    test: Url | float = 0.1
    """texts on which the reported figures are measured: another file, or a share of `train`"""
    columns: dict[str, str] = Field(default_factory=dict)
    """map from `text` or `emotions` to the column that holds it, where the names differ"""
    delimiter: Delimiter = None
    """character between the cells of CSV and TSV files; see `input.delimiter`"""
    quotes: Quotes = None
    """meaning of quotes in CSV and TSV files: around cells (`true`), or ordinary characters (`false`)"""
    credit: str = ""
    """names of the people or projects whose data it is, for the model card"""


class ClassifierStage(Section):
    """Training of an emotion classifier: a small head on a sentence encoder, or on words."""

    kind: Literal["classifier"]
    """kind of the stage"""
    data: LabelledTexts
    """texts with their emotions"""
    encoder: Literal["frozen", "trained", "words"] = "frozen"
    """training of the head alone, or of the encoder too. `words`: no encoder, but a linear head on words, pairs of
    words and character sequences, which reads neither `layers`, `hidden` nor `model`; good values are
    `learning_rate: 0.03` and `epochs: 8`"""
    layers: int = Field(3, gt=0)
    """number of the encoder's last layers that the head reads"""
    hidden: int = Field(200, gt=0)
    """number of units in the head's hidden layer"""
    dropout: float = Field(0.3, ge=0, lt=1)
    """share of the hidden units that a training step leaves out"""
    epochs: int = Field(30, gt=0)
    """number of passes over the texts"""
    batch_size: int = Field(256, gt=0)
    """number of texts in one step"""
    learning_rate: float = Field(1e-3, gt=0)
    """learning rate of the head"""
    encoder_learning_rate: float = Field(5e-5, gt=0)
    """learning rate of the encoder, where it is trained"""
    weight_decay: float = Field(0.01, ge=0)
    """weight decay of the optimizer (AdamW)"""
    max_tokens: int = Field(128, gt=2)
    """number of tokens of a text that are read; the rest is cut off"""


class Optimizer(Section):
    """Optimizer (AdamW) of a language model. The defaults are those of section 3 of the paper."""

    learning_rate: float = Field(2e-5, gt=0)
    """highest learning rate of the stage"""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """course of the learning rate after the warm-up"""
    warmup_steps: int = Field(0, ge=0)
    """number of steps in which the learning rate rises from 0"""
    weight_decay: float = Field(0.0, ge=0)
    """weight decay"""
    batch_size: int = Field(4, gt=0)
    """number of examples in one forward pass"""
    accumulation: int = Field(8, gt=0)
    """number of forward passes in one optimizer step"""
    epochs: float = Field(10, gt=0)
    """largest number of passes over the examples"""
    max_steps: int | None = Field(None, gt=0)
    """largest number of optimizer steps; by default `epochs` alone bounds them"""
    eval_steps: int = Field(200, gt=0)
    """number of steps from one evaluation to the next; each also writes a checkpoint"""
    patience: int = Field(10, gt=0)
    """number of evaluations in a row without a lower loss, after which the stage ends"""
    gradient_checkpointing: bool = False
    """saving of memory: activations are computed twice in place of being kept; a third slower"""


class Lora(Section):
    """Low-rank adapters (LoRA), which are trained in place of the weights."""

    rank: int = Field(8, gt=0)
    """rank of each adapter"""
    alpha: float = Field(16, gt=0)
    """scale of the adapters: their output is multiplied by alpha / rank"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """share of an adapter's inputs that a training step leaves out"""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """names of the layers that get an adapter"""
    merge: bool = Field(True, exclude_if=lambda merge: merge)
    """merging of the adapters into the weights at the end, which gives a plain checkpoint; `false` keeps the adapters
    alone, for peft and for vLLM's `--lora-modules`, in a job of one stage"""


class GrammarGuard(MinimalPairs):
    """Guard of the grammar: minimal pairs are scored at each evaluation, and weights that lost grammar are not kept."""

    pairs: int = Field(1000, gt=0)
    """number of pairs, drawn by the job's seed, equally many from each paradigm"""
    max_drop: float = Field(0.02, gt=0, lt=1)
    """largest drop of the accuracy on the pairs, as a share, that weights may have to be kept; measured from the
    stage's first model, with 95% confidence"""


class LanguageStage(Section):
    """Keys that both kinds of a language model's stages have."""

    parts: dict[PartName, Part] = Field(min_length=1)
    """parts of the training data under names of your own: augmented runs, files, datasets"""
    dev: float = Field(0.02, gt=0, lt=0.5)
    """share of the input rows that are held out from training, to measure the loss on; a hash of the row's identity
    chooses them"""
    dev_examples: int = Field(500, gt=0)
    """largest number of held-out examples that an evaluation uses"""
    max_length: int | None = Field(None, gt=1)
    """largest number of tokens of an example; by default the model's context length, and at most 1024"""
    optimizer: Optimizer = Optimizer()
    """optimizer, batches and evaluations"""
    lora: Lora | None = None
    """low-rank adapters; by default all weights are trained"""
    kl: float = Field(0.0, ge=0)
    """weight of the KL divergence from the stage's first model in the loss, which keeps the model's language; 0 is
    none"""
    blimp: GrammarGuard | None = Field(None, exclude_if=lambda blimp: blimp is None)
    """guard of the grammar, on minimal pairs; by default none"""


class ClmStage(LanguageStage):
    """Training on plain text: the loss is that of every token of each document."""

    kind: Literal["clm"]
    """kind of the stage: causal language modelling"""
    words: int | None = Field(None, gt=0)
    """number of words of all parts together; parts without `words` share what is left by their `weight`"""
    packing: bool = True
    """packing of documents end to end into examples of `max_length` tokens each, without padding"""
    too_long: Literal["split", "truncate", "drop"] = "split"
    """treatment of documents above `max_length`, where they are not packed"""

    @model_validator(mode="after")
    def _check_weights(self) -> "ClmStage":
        if self.words is None and any(part.weight is not None for part in self.parts.values()):
            raise ValueError("a part's weight is a share of `words`, which the stage does not give")
        return self


class SftStage(LanguageStage):
    """Training on prompts and completions, or on conversations: the loss is that of the completion, or of the
    assistant's turns, alone."""

    kind: Literal["sft"]
    """kind of the stage: supervised fine-tuning"""
    messages: str | None = Field(None, exclude_if=lambda column: column is None)
    """column of conversations, each a list of `{role, content}`, in place of `prompt` and `completion`. Where a run's
    conversation does not end with the assistant's turn, the row's `text` is that turn. The column `tools`, where there
    is one, holds the tools that a conversation calls"""
    prompt: Annotated[list[str], Field(min_length=1)] | None = Field(
        default_factory=lambda given: None if given.get("messages") else ["instruction", "input"],
        exclude_if=lambda columns: columns is None,
    )
    """columns that make the prompt, with a blank line between them; blank ones after the first are left out. A run's
    columns are joined by the fields of its `inputs`"""
    completion: str | None = Field(
        default_factory=lambda given: None if given.get("messages") else "text",
        exclude_if=lambda column: column is None,
    )
    """column of the text that the model learns to write"""
    too_long: Literal["truncate", "drop"] = "truncate"
    """treatment of rows above `max_length`; a row whose prompt alone is that long is always dropped"""
    replay: dict[PartName, Part] = Field(default_factory=dict)
    """parts of general text, which are mixed in as documents to keep the model's language; `words` of each part sets
    its amount"""

    @model_validator(mode="after")
    def _check_columns(self) -> "SftStage":
        if (self.messages is None) == (self.prompt is None) or (self.prompt is None) != (self.completion is None):
            raise ValueError("give either messages, or prompt and completion")
        if any(part.words is not None or part.weight is not None for part in self.parts.values()):
            raise ValueError("a part of rows is taken whole; input.limit takes the first ones")
        if any(part.weight is not None for part in self.replay.values()):
            raise ValueError("a part to replay has `words`, and no weight")
        return self


Stage = Annotated[ClassifierStage | ClmStage | SftStage, Field(discriminator="kind")]


class FromConfig(Section):
    """Sizes of a new model: GPT-2's architecture with random weights."""

    layers: int = Field(12, gt=0)
    """number of layers"""
    heads: int = Field(12, gt=0)
    """number of attention heads in each layer"""
    width: int = Field(768, gt=0)
    """size of a token's hidden state; a multiple of `heads`"""
    context: int = Field(1024, gt=1)
    """largest number of tokens that the model reads at once"""

    @model_validator(mode="after")
    def _check_width(self) -> "FromConfig":
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) is no multiple of heads ({self.heads})")
        return self


class TrainModel(Model):
    """Model that training starts from. `dtype` and `quantization` are for serving and are refused here."""

    from_config: FromConfig | None = Field(None, exclude_if=lambda sizes: sizes is None)
    """sizes of a new model with random weights; of `id` only the tokenizer is used then"""

    @model_validator(mode="after")
    def _check_precision(self) -> "TrainModel":
        if self.dtype != "auto" or self.quantization is not None:
            raise ValueError("dtype and quantization are of serving; training has `precision`")
        return self


class TrainOutput(Section):
    """Folder of the trained model."""

    short_key = "path"

    path: str = Field(min_length=1)
    """run folder: a local folder"""

    @model_validator(mode="after")
    def _check_local(self) -> "TrainOutput":
        if "://" in self.path:
            raise ValueError("a model is trained into a local or mounted folder")
        return self


class Resources(Section):
    """Resources of a job that is one of several, each of which is a Ray task. A job that runs alone uses the whole
    machine."""

    gpus: float | None = Field(None, ge=0, le=1)
    """GPUs of the task; with a share of one, other tasks train on the rest. By default one for a language model where
    the cluster has GPUs"""
    cpus: int | None = Field(None, gt=0)
    """CPU cores of the task, and its computing threads; by default one beside a GPU, else an equal share of a node's
    cores"""
    wait_minutes: float | None = Field(30.0, ge=0)
    """minutes that the task waits while no node is large enough for it, or while others than the trainings of this call
    hold the resources; null waits without an end"""


class TrainJob(Section):
    """Job of `kindling train`: a language model goes through stages, or an emotion classifier is trained."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """name of the run in logs, in metrics (label `run`) and on the model card: letters, digits, `.`, `_` and `-`"""
    model: TrainModel = TrainModel()
    """model that training starts from; for a classifier the encoder, where `embedded` is the packaged one"""
    stages: list[Stage] = Field(min_length=1)
    """stages of a language model, each of which goes on from the one before; or one stage of a classifier"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", exclude_if=lambda value: value == "auto")
    """number format of a language model's arithmetic; its weights are kept in fp32. `auto` is bf16 on a GPU that has
    it, fp16 on other GPUs, and fp32 on a CPU"""
    resources: Resources = Resources()
    """resources of this job, where several are trained at once"""
    output: TrainOutput
    """folder of the trained model"""
    license: str | None = None
    """license of the model, for its card, as the Hub names it: `cc-by-4.0`"""
    language: str | None = Field(None, exclude_if=lambda language: language is None)
    """languages of the model, for its card, as two letters: `en`, or `en,de`"""
    metrics: Metrics = Field(Metrics(), exclude_if=lambda section: section == Metrics())
    """Prometheus endpoint of this job"""
    seed: int = 0
    """seed of the order of examples, of dropout and of new weights"""

    @model_validator(mode="after")
    def _check_stages(self) -> "TrainJob":
        if any(stage.kind == "classifier" for stage in self.stages):
            if len(self.stages) > 1:
                raise ValueError("a classifier is a job of its own, with one stage")
            if self.model.from_config or self.precision != "auto":
                raise ValueError("from_config and precision are a language model's")
        adapters = [stage.lora for stage in self.language_stages() if stage.lora and not stage.lora.merge]
        if adapters and (len(self.stages) > 1 or self.model.from_config):
            raise ValueError("with lora.merge: false a job has one stage, and a model that others have too")
        return self

    def language_stages(self) -> list[ClmStage | SftStage]:
        """Returns the stages of a language model; none where the job trains a classifier."""
        return [stage for stage in self.stages if not isinstance(stage, ClassifierStage)]

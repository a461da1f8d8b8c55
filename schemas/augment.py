"""The job of `kindling augment`: input rows through a recipe and a model into shards."""

from typing import Literal

from pydantic import Field, model_validator

from schemas.job import Classifier, Cluster, EngineArguments, Input, Metrics, Model, Sampling, Section, Url
from schemas.sweep import Sweep, Variant, variants_of


class AugmentOutput(Section):
    """Where the run goes, and how large its shards are."""

    path: Url
    """the run folder: local, or a URL of any fsspec file system"""
    rows_per_shard: int = Field(512, gt=0)
    """input rows in one shard"""


class AugmentJob(Section):
    """An augmentation job: input rows through a recipe and a model into shards."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    input: Input
    recipe: Literal["babylm_story", "alpaca_rewrite", "evaluation_prompts", "template", "messages"]
    """messages: the column of that name holds chat messages, taken as they stand"""
    prompt: str | None = None
    """name of a shipped prompt (p1, p2, p3; v1, v2, v3; tasks), or the path of a Jinja file of your own"""
    classifier: Classifier | None = Field(None, exclude_if=lambda classifier: classifier is None)
    """for alpaca_rewrite: picks the positive emotion that fits a row's answer best"""
    samples: int = Field(1, gt=0)
    """outputs for each input row"""
    model: Model = Model()
    sampling: Sampling = Sampling()
    sweep: Sweep | None = Field(None, exclude_if=lambda sweep: sweep is None)
    """several prompts and sampling settings over the same rows: lists of values by key (`prompt`, and those of
    `sampling`), of which every combination is a variant; or a list of combinations"""
    engine: EngineArguments = Field(default={})
    cluster: Cluster = Cluster()
    output: AugmentOutput
    metrics: Metrics = Metrics()
    seed: int = 0

    @model_validator(mode="after")
    def _sweepable(self) -> "AugmentJob":
        self.variants()
        return self

    def variants(self) -> list[Variant]:
        """What each row is generated with: the combinations of the sweep, or the job's own prompt and sampling."""
        return variants_of(self.sweep, self.prompt, self.sampling)

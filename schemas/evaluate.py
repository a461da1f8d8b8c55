"""The job file of `kindling evaluate`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.job import Classifier, Cluster, EngineArguments, Metrics, Model, Sampling, Section, Url
from schemas.minimal_pairs import MinimalPairs

# Results and folders are named after it.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def _name_of(path: str) -> str:
    return _NOT_IN_NAMES.sub("-", Path(path).name).lstrip("._-") or "model"


class EvaluatedModel(Section):
    """A model to evaluate: `id` or `path`."""

    id: str | None = Field(None, min_length=1)
    """hub id, `embedded` (the model a package ships), or `fake` (words drawn by chance: tests)"""
    path: str | None = Field(None, min_length=1)
    """a checkpoint folder: what `kindling train` wrote, say"""
    name: Name | None = None
    """in tables and file names; by default the last part of the id or path"""
    revision: str | None = None
    dtype: str = "auto"
    """float32 makes greedy answers the same whatever the number of replicas"""
    quantization: str | None = None
    """vLLM's name of the format; by default what the checkpoint itself says"""
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> "EvaluatedModel":
        if (self.id is None) == (self.path is None):
            raise ValueError("give either id or path")
        return self

    @property
    def label(self) -> str:
        """Its name in tables and file names."""
        return self.name or _name_of(self.id or self.path or "")

    def model(self) -> Model:
        """The same as an augmentation job has it."""
        kept = self.model_dump(exclude={"id", "path", "name"})
        return Model(id=self.id or str(Path(self.path or "").expanduser().absolute()), **kept)


class Responses(Section):
    """Responses that are there already, in place of models."""

    path: Url
    """a JSON list of strings, or {emotion: [response, ...]}; or a table: JSONL, Parquet, CSV, a JSON list of objects"""
    columns: dict[Literal["response", "emotion"], str] = Field(default_factory=dict)
    """of a table, where the names differ; a column `emotion` may be missing"""
    name: Name | None = None
    """of the model that wrote them; by default the file's"""

    @property
    def label(self) -> str:
        """Their name in tables and file names."""
        return self.name or _name_of(Path(self.path).name.partition(".")[0])


class PromptSet(Section):
    """Prompts to answer, each with the emotion that it is about."""

    prompts: Url | None = None
    """{emotion: [prompt, ...]} as JSON, which `kindling export --format prompts` writes, or a table"""
    columns: dict[Literal["prompt", "emotion"], str] = Field(default_factory=dict)
    """of a table, where the names differ"""
    per_emotion: int | None = Field(None, gt=0)
    """take only the first so many prompts of each emotion"""


class Sentiment(PromptSet):
    """The emotions of responses to prompts, by the emotions of the prompts (the paper's tables 5 and 17)."""

    classifier: Classifier = Classifier()
    pooling: Literal["top3", "mean", "max", "whole"] = "top3"
    """from the scores of a response's sentences to its own; whole scores it in one piece, cut at the classifier's
    `max_tokens`"""
    groups: Url | None = None
    """a JSON file {group: [emotion, ...]} in which each of the 28 emotions stands once; by default the paper's three"""


class Blimp(MinimalPairs):
    """Minimal pairs, of which one sentence is grammatical (the paper's tables 6 and 15); without `paradigms` all of
    BLiMP's 67, each whole."""


class LmEval(Section):
    """Other tasks, by lm-evaluation-harness itself."""

    tasks: list[str | dict[str, Any]] = Field(min_length=1)
    """names of its tasks and groups; or a task as its YAML files have it, with `task`, its name: `dataset_path: json`
    and `dataset_kwargs: {data_files: ...}` read local data"""
    limit: int | None = Field(None, gt=0)
    """documents of each task: for a quick look"""
    batch_size: int = Field(32, gt=0)

    @field_validator("tasks")
    @classmethod
    def _named_once(cls, tasks: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        names = [task_name(task) for task in tasks]
        if not all(names):
            raise ValueError("a task of its own needs a name: `task: mine`")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]} is there twice")
        return tasks


def task_name(task: str | dict[str, Any]) -> str:
    """What a task of lm-evaluation-harness is called; "" where it has no name."""
    name = task if isinstance(task, str) else task.get("task")
    return name if isinstance(name, str) else ""


class Preference(PromptSet):
    """Which model's responses people like best, by a blind questionnaire (the paper's table 4)."""

    question: str | None = Field(None, min_length=1)
    """what respondents are asked about each prompt; by default which response is the best"""
    returned: list[Url] = Field(default_factory=list)
    """the files that they sent back, or globs of them"""


class LogitLens(Section):
    """What each model would say next after each of its layers."""

    texts: list[Annotated[str, Field(min_length=1)]] = Field(
        ["I was tired after a long week, yet I felt proud of what we had done."], min_length=1
    )
    """a sentence or two each; read as they are, without a chat template"""


class EvaluateOutput(Section):
    """Where the results go."""

    path: Url
    """the run folder: local, or a URL of any fsspec file system"""


class EvaluateJob(Section):
    """An evaluate job: models, or their responses, through evaluations."""

    name: Name
    models: list[EvaluatedModel] = Field(default_factory=list)
    """the first is the one that the others are compared with"""
    responses: Responses | None = None
    evaluations: list[Literal["sentiment", "blimp", "lm_eval", "preference", "logit_lens"]] = Field(min_length=1)
    sentiment: Sentiment = Sentiment()
    blimp: Blimp = Blimp()
    lm_eval: LmEval | None = None
    preference: Preference = Preference()
    logit_lens: LogitLens = LogitLens()
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=128)
    """of what models are asked to write; greedy by default"""
    engine: EngineArguments = Field(default_factory=dict)
    cluster: Cluster = Cluster()
    output: EvaluateOutput
    metrics: Metrics = Metrics()
    seed: int = 0

    @model_validator(mode="after")
    def _sound(self) -> "EvaluateJob":
        if bool(self.models) == bool(self.responses):
            raise ValueError("give either models or responses")
        labels = [model.label for model in self.models]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two models are called {twice[0]}: give one of them another `name`")
        for each in ("sentiment", "preference"):
            if self.models and each in self.evaluations and getattr(self, each).prompts is None:
                raise ValueError(f"models need prompts to answer: give {each}.prompts")
        if self.responses and (asked := [each for each in self.evaluations if each != "sentiment"]):
            raise ValueError(f"{asked[0]} is of models, and responses are none: leave it out of `evaluations`")
        if "lm_eval" in self.evaluations and self.lm_eval is None:
            raise ValueError("name what to evaluate: give lm_eval.tasks")
        return self

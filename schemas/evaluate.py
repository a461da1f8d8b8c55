"""The job file of `kindling evaluate`: models, or texts that they wrote, go through evaluations."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, field_validator, model_validator

from schemas.job import (
    Classifier,
    Cluster,
    Delimiter,
    EngineArguments,
    Metrics,
    Model,
    NoSecrets,
    Pooling,
    Quotes,
    Sampling,
    Section,
    Url,
)
from schemas.minimal_pairs import MinimalPairs
from schemas.questionnaire import PAGE_NAME

# Result files and folders bear these names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def _name_of(path: str) -> str:
    return _NOT_IN_NAMES.sub("-", Path(path).name).lstrip("._-") or "model"


class EvaluatedModel(Section):
    """Model to evaluate: give `id` or `path`."""

    id: Url | None = Field(None, min_length=1)
    """id of the model: hub id, `embedded` (the model that comes as a Python package), or `fake` (random words, for
    tests)"""
    path: Url | None = Field(None, min_length=1)
    """checkpoint folder, such as one that `kindling train` wrote"""
    name: Name | None = None
    """name of the model in tables and file names; by default the last part of `id` or `path`"""
    revision: str | None = None
    """commit, tag or branch of the model on the hub"""
    dtype: str = "auto"
    """number format of the weights, as vLLM names it; `auto` takes the checkpoint's own. With `float32` greedy
    responses do not depend on the number of replicas"""
    quantization: str | None = None
    """quantization format, as vLLM names it; by default the one that the checkpoint names"""
    trust_remote_code: bool = False
    """permission to run the Python code that a checkpoint brings along"""

    @model_validator(mode="after")
    def _check_place(self) -> "EvaluatedModel":
        if (self.id is None) == (self.path is None):
            raise ValueError("give either id or path")
        return self

    @property
    def label(self) -> str:
        """Name of the model in tables and file names."""
        return self.name or _name_of(self.id or self.path or "")

    def model(self) -> Model:
        """Returns the same model as a section of an augment job."""
        kept = self.model_dump(exclude={"id", "path", "name"})
        return Model(id=self.id or str(Path(self.path or "").expanduser().absolute()), **kept)


class Responses(Section):
    """Responses that some model wrote before, in place of models."""

    path: Url
    """file of responses: a JSON list of strings, `{emotion: [response, ...]}` as JSON, or a table (JSONL, Parquet, CSV,
    a JSON list of objects)"""
    columns: dict[Literal["response", "emotion"], str] = Field(default_factory=dict)
    """map from `response` or `emotion` to the table's column, where the names differ; a table may have no emotions"""
    delimiter: Delimiter = None
    """character between the cells of a CSV or TSV file; see `input.delimiter`"""
    quotes: Quotes = None
    """meaning of quotes in a CSV or TSV file: around cells (`true`), or ordinary characters (`false`)"""
    name: Name | None = None
    """name of the model that wrote them; by default the name of the file"""

    @property
    def label(self) -> str:
        """Name of the responses' model in tables and file names."""
        return self.name or _name_of(Path(self.path).name.partition(".")[0])


def result_path(evaluation: str, name: str, ending: str = "json") -> str:
    """Path of a result below the folder of an evaluation; the JSON file is written last, and says that it is done."""
    return f"results/{evaluation}/{name}.{ending}"


class EvaluationSection(Section):
    """Base of the sections of evaluations; the name of a section in the job is the name of its evaluation."""

    for_all_models: ClassVar[bool] = False
    """the evaluation has one result for all models together, and none where a model failed"""
    has_tasks: ClassVar[bool] = False
    """the evaluation has a result for each of several tasks of a model, which `status` counts"""

    def result_files(self, evaluation: str, models: list[str]) -> dict[str, list[str]]:
        """Files whose presence says that an evaluation is done, by model; relative to the evaluation's folder.

        Args:
            evaluation: name of the evaluation.
            models: names of the job's models.
        """
        return {model: [result_path(evaluation, model)] for model in models}


class PromptSet(EvaluationSection):
    """Prompts that models respond to, each with the emotion that it is about."""

    prompts: Url | None = None
    """file of prompts: `{emotion: [prompt, ...]}` as JSON, which `kindling export --format prompts` writes, or a table
    (JSONL, Parquet, CSV); or the folder of a run of the recipe `evaluation_prompts`"""
    columns: dict[Literal["prompt", "emotion"], str] = Field(default_factory=dict)
    """map from `prompt` or `emotion` to the table's column, where the names differ"""
    delimiter: Delimiter = None
    """character between the cells of a CSV or TSV file; see `input.delimiter`"""
    quotes: Quotes = None
    """meaning of quotes in a CSV or TSV file: around cells (`true`), or ordinary characters (`false`)"""
    per_emotion: int | None = Field(None, gt=0)
    """number of prompts to take of each emotion, from the first on; all by default"""


class Sentiment(PromptSet):
    """Evaluation `sentiment`: emotions of the responses, by the emotions of the prompts (the paper's tables 5 and
    17)."""

    classifier: Classifier = Classifier()
    """classifier that finds the emotion of each response"""
    pooling: Pooling = "passages"
    """pieces of a response that are scored, and the way from their scores to its own: passages of at most 64 words and
    their mean; the response in one piece, cut at the classifier's `max_tokens` (`whole`); or its sentences, and for
    each label the mean of the three highest, the mean of all, or the highest"""
    groups: Url | None = None
    """JSON file `{group: [emotion, ...]}` that holds each of the 28 emotions once; by default the three groups of the
    paper"""


class Blimp(MinimalPairs, EvaluationSection):
    """Evaluation `blimp`: share of minimal pairs whose grammatical sentence a model finds likelier (the paper's tables
    6 and 15). Without `paradigms` all 67 of BLiMP are needed, or a source that has none of them."""

    pairs_per_paradigm: int | None = Field(None, gt=0)
    """number of pairs to take of each paradigm, from the first on, for a quick look; all by default"""


class EmoBench(EvaluationSection):
    """Evaluation `emobench`: emotional intelligence, by EmoBench's multiple choice in English."""

    short_key = "path"

    path: Url
    """folder with EmoBench's files `EU.jsonl` (emotion and cause) and `EA.jsonl` (best response)"""
    scoring: Literal["cloze", "letters"] = "cloze"
    """score of an option: its likelihood as the answer, without a list of options (`cloze`), or that of its letter in
    a list, averaged over orders in which each option stands once at each letter (`letters`)"""
    per_category: int | None = Field(None, gt=0)
    """number of items to take of each category, from the first on, for a quick look; all by default"""


class LmEval(EvaluationSection):
    """Evaluation `lm_eval`: tasks of lm-evaluation-harness."""

    has_tasks: ClassVar[bool] = True

    tasks: Annotated[list[str | dict[str, Any]], NoSecrets] = Field(min_length=1)
    """names of tasks and groups of lm-evaluation-harness, or tasks as its YAML files define them, with their name as
    `task`; `dataset_path: json` and `dataset_kwargs: {data_files: ...}` read local data"""
    limit: int | None = Field(None, gt=0)
    """number of documents of each task, for a quick look; all by default"""
    batch_size: int = Field(32, gt=0)
    """number of requests that lm-evaluation-harness puts into one batch"""

    @field_validator("tasks")
    @classmethod
    def _check_names(cls, tasks: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        names = [task_name(task) for task in tasks]
        if not all(names):
            raise ValueError("a task of its own needs a name: `task: mine`")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]} is there twice")
        return tasks

    def result_files(self, evaluation: str, models: list[str]) -> dict[str, list[str]]:
        """Files of each model, one for each task."""
        tasks = [task_name(task) for task in self.tasks]
        return {model: [result_path(evaluation, task_result(model, task)) for task in tasks] for model in models}


def task_result(model: str, task: str) -> str:
    """Returns the name of the result of one model and task; a task's name may hold characters that no file name has."""
    return f"{model}/{quote(task, safe='')}"


def task_name(task: str | dict[str, Any]) -> str:
    """Returns the name of a task of lm-evaluation-harness; "" where it has none."""
    name = task if isinstance(task, str) else task.get("task")
    return name if isinstance(name, str) else ""


class Preference(PromptSet):
    """Evaluation `preference`: people choose the best of all models' responses in a blind questionnaire (the paper's
    table 4)."""

    for_all_models: ClassVar[bool] = True

    question: str | None = Field(None, min_length=1)
    """question that respondents see at each prompt; by default it asks which response is the best"""
    returned: list[Url] = Field(default_factory=list)
    """files that respondents sent back, or globs of such files"""

    def result_files(self, evaluation: str, models: list[str]) -> dict[str, list[str]]:
        """The questionnaire, which is of all models; and under the name "" the count of what was returned."""
        pages = {model: [f"{evaluation}/{PAGE_NAME}"] for model in models}
        return pages | ({"": [result_path(evaluation, "tally")]} if self.returned else {})


class LogitLens(EvaluationSection):
    """Evaluation `logit_lens`: next token that a model would choose after each of its layers (the paper's figures 3 and
    4)."""

    texts: list[Annotated[str, Field(min_length=1)]] = Field(
        ["I was tired after a long week, yet I felt proud of what we had done."], min_length=1
    )
    """texts of a sentence or two, which the model reads without a chat template"""


class EvaluateOutput(Section):
    """Run folder of the evaluation."""

    short_key = "path"

    path: Url
    """run folder: local, or a URL of any fsspec file system"""


class EvaluateJob(Section):
    """Job of `kindling evaluate`: models, or texts that they wrote, go through evaluations."""

    name: Name
    """name of the run in logs, in metrics (label `run`) and in the report: letters, digits, `.`, `_` and `-`, first a
    letter or digit"""
    models: list[EvaluatedModel] = Field(default_factory=list)
    """models to evaluate; each is compared with the first"""
    responses: Responses | Annotated[list[Responses], Field(min_length=1)] | None = None
    """responses that a model wrote before, in place of `models`; or a list of those of several models, each compared
    with the first; for the evaluation `sentiment` alone"""
    evaluations: list[Literal["sentiment", "blimp", "emobench", "lm_eval", "preference", "logit_lens"]] = Field(
        min_length=1
    )
    """evaluations to run, each with a section of its own below"""
    sentiment: Sentiment = Sentiment()
    """prompts, classifier and groups of the evaluation `sentiment`"""
    blimp: Blimp = Blimp()
    """minimal pairs of the evaluation `blimp`"""
    emobench: EmoBench | None = None
    """items of the evaluation `emobench`, which needs their folder"""
    lm_eval: LmEval | None = None
    """tasks of the evaluation `lm_eval`, which needs them"""
    preference: Preference = Preference()
    """prompts and returned files of the evaluation `preference`"""
    logit_lens: LogitLens = LogitLens()
    """texts of the evaluation `logit_lens`"""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=128)
    """choice of each next token of the models' responses; greedy by default"""
    engine: EngineArguments = Field(default_factory=dict)
    """engine arguments under vLLM's names, passed to vLLM unchanged"""
    cluster: Cluster = Cluster()
    """Ray cluster, and the replicas of this job in it"""
    output: EvaluateOutput
    """run folder of the evaluation"""
    metrics: Metrics = Metrics()
    """Prometheus endpoint of this job"""
    seed: int = 0
    """seed of the run, from which the seed of each response is derived"""

    @property
    def model_labels(self) -> list[str]:
        """Names of all models whose results the job has: its own, or the one whose responses it names."""
        return [model.label for model in self.models] or [each.label for each in self.given_responses]

    @property
    def given_responses(self) -> list[Responses]:
        """Responses that the job names, one entry for each model that wrote them."""
        return [self.responses] if isinstance(self.responses, Responses) else self.responses or []

    @model_validator(mode="after")
    def _check_evaluations(self) -> "EvaluateJob":
        if bool(self.models) == bool(self.responses):
            raise ValueError("give either models or responses")
        labels = self.model_labels
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two models are called {twice[0]}: give one of them another `name`")
        for evaluation in self.evaluations:
            section = getattr(self, evaluation)
            if self.models and isinstance(section, PromptSet) and section.prompts is None:
                raise ValueError(f"models need prompts to respond to: give {evaluation}.prompts")
        if self.responses and (others := [name for name in self.evaluations if name != "sentiment"]):
            raise ValueError(f"{others[0]} needs models, and the job has responses: leave it out of `evaluations`")
        if "emobench" in self.evaluations and self.emobench is None:
            raise ValueError("name the folder with EmoBench's files: give emobench.path")
        if "lm_eval" in self.evaluations and self.lm_eval is None:
            raise ValueError("name what to evaluate: give lm_eval.tasks")
        return self

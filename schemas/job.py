"""Sections that several job files share.

A job file is one YAML document. The string below each key is its meaning: docs/job_file_reference.py writes the
reference of all job files from these strings.
"""

import warnings
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.secrets import secret_in, secret_key_in

if TYPE_CHECKING:  # this one takes a fifth of the time of a command that only reads a job file
    from pydantic.annotated_handlers import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

SECRET_FAULT = "secret"
"""type of the validation error of a value that may hold a secret"""
_Value = TypeVar("_Value")


def _refuse_secret(url: str) -> str:
    if part := secret_in(url):
        raise PydanticCustomError(
            SECRET_FAULT, f"{part} may be a secret, which would be written to run.json, and to each row with its source"
        )
    return url


Url = Annotated[str, Field(min_length=1), AfterValidator(_refuse_secret)]
"""local path, or URL of any fsspec file system"""


def _refuse_secret_key(value: _Value) -> _Value:
    if key := secret_key_in(value):
        raise PydanticCustomError(SECRET_FAULT, f"a secret here ({key}) would be written to run.json")
    return value


NoSecrets = AfterValidator(_refuse_secret_key)
"""refuses secrets in values that have no schema of their own"""

EngineArguments = Annotated[dict[str, Any], NoSecrets]
"""engine arguments under vLLM's names, passed to vLLM unchanged"""


def _is_none(value: Any) -> bool:
    return value is None


def _is_empty(value: Any) -> bool:
    return not value


Delimiter = Annotated[str | None, Field(pattern=r'^[^"\r\n\x00]$', exclude_if=_is_none)]
"""character between the cells of a CSV or TSV file"""
Quotes = Annotated[bool | None, Field(exclude_if=_is_none)]
"""whether quotes enclose the cells of a CSV or TSV file"""


class Section(BaseModel):
    """Base of every section of a job file. The string below a key becomes the key's description."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    short_key: ClassVar[str] = ""
    """key that a text in place of the section stands for: `model: embedded` is `model: {id: embedded}`"""

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, value: Any) -> Any:
        return {cls.short_key: value} if cls.short_key and isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: "CoreSchema", handler: "GetJsonSchemaHandler"
    ) -> "JsonSchemaValue":
        """Adds the short form to the JSON schema of a section that has one."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, schema]} if cls.short_key else schema


class Input(Section):
    """Input rows: from files (`path`) or from a Hugging Face dataset (`dataset`). `input: rows.csv` is short for
    `input: {path: rows.csv}`."""

    short_key = "path"

    path: Url | Annotated[list[Url], Field(min_length=1)] | None = None
    """input files: a file, a folder, a glob, or a list of these; local, or URLs of any fsspec file system (s3://,
    gs://, hf://)"""
    dataset: Url | None = None
    """Hugging Face dataset in place of files: hub id or local folder"""
    config: str | None = None
    """name of the dataset's configuration, where it has several"""
    split: str = "train"
    """split of the dataset"""
    revision: str | None = None
    """commit, tag or branch of the dataset"""
    format: Literal["auto", "parquet", "arrow", "jsonl", "json", "csv", "text"] = "auto"
    """format of the files; `auto` takes it from the ending of each file's name. `json` is one list of objects, which is
    held in memory"""
    encoding: str | None = Field(None, exclude_if=_is_none)
    """encoding of text files (CSV, TSV, JSONL, JSON, plain text), by Python's names: `cp1252` for what Excel on Windows
    writes as CSV, `utf-16` for what PowerShell writes; by default UTF-8"""
    delimiter: Delimiter = None
    """character between the cells of CSV and TSV files, such as `";"`; by default a comma (a tab for .tsv), or the
    one that the header has instead: a comma, a semicolon, a tab or a bar"""
    quotes: Quotes = None
    """meaning of quotes in CSV and TSV files: around cells (`true`), or ordinary characters (`false`); by default both
    are read where the meaning is certain, and the file is refused where it is not"""
    columns: dict[str, str] = {}
    """map from a recipe's field to the input column that holds it, where the names differ: `{emotion: emotions}`"""
    keep: list[str] | Literal["all"] = []
    """names of further input columns, which are written into the `inputs` of each output; `all` for all columns"""
    limit: int | None = Field(None, gt=0)
    """number of rows to take, from the first on; all by default"""
    storage_options: dict[str, Any] = {}
    """options of the fsspec file system; run.json keeps the options' names, and none of their values"""

    @model_validator(mode="after")
    def _check_source(self) -> "Input":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either input.path or input.dataset")
        return self


class Model(Section):
    """Language model, and the way it is loaded. `model: embedded` is short for `model: {id: embedded}`."""

    short_key = "id"

    id: Url = Field("embedded", min_length=1)
    """id of the model: hub id, local folder, `embedded` (the model that comes as a Python package), or `fake` (a
    simulated engine, for tests)"""
    revision: str | None = None
    """commit, tag or branch of the model on the hub"""
    dtype: str = "auto"
    """number format of the weights, as vLLM names it; `auto` takes the checkpoint's own"""
    quantization: str | None = None
    """quantization format, as vLLM names it; by default the one that the checkpoint names"""
    trust_remote_code: bool = False
    """permission to run the Python code that a checkpoint brings along"""


Pooling = Literal["passages", "whole", "top3", "mean", "max"]


class Classifier(Section):
    """Model that finds the emotions of a text: a sequence classifier with the labels of GoEmotions."""

    short_key = "id"

    id: Url = Field("embedded", min_length=1)
    """`embedded` (the packaged sentence encoder with the head that Kindling ships), `embedded-words` (a linear head on
    words, which makes other mistakes), a folder that `kindling train` wrote, or any Hugging Face sequence classifier:
    hub id or local folder"""
    revision: str | None = None
    """commit, tag or branch of the classifier on the hub"""
    max_tokens: int = Field(128, gt=2)
    """number of tokens of a sentence that are read; the rest is cut off"""


class RepetitionDetection(Section):
    """Loops that end an output at once: its last tokens are the same sequence, several times in a row. Such a row is
    rejected (`repetition_detected`). The same sequence of words must also be the same tokens."""

    max_pattern_size: int = Field(gt=0, le=1000)
    """largest number of tokens of the sequence"""
    min_pattern_size: int = Field(1, gt=0)
    """smallest number of tokens of the sequence"""
    min_count: int = Field(ge=2, le=1000)
    """number of times in a row that ends the output"""

    @model_validator(mode="after")
    def _check_sizes(self) -> "RepetitionDetection":
        if self.min_pattern_size > self.max_pattern_size:
            sizes = f"min_pattern_size ({self.min_pattern_size}) is above max_pattern_size ({self.max_pattern_size})"
            raise ValueError(sizes)
        return self


with warnings.catch_warnings():
    # The key `json` has vLLM's name. Pydantic warns of it: its own method `json` is an old name of `model_dump_json`.
    warnings.simplefilter("ignore", UserWarning)

    class StructuredOutputs(Section):
        """Form that each output follows: exactly one of these keys. A response that was cut off is rejected
        (`cut_off`)."""

        json: dict[str, Any] | None = Field(None, exclude_if=_is_none)  # type: ignore[assignment]
        """JSON schema (2020-12); a response that is not JSON is rejected (`not_json`)"""
        regex: str | None = Field(None, min_length=1, exclude_if=_is_none)
        """regular expression that the whole output matches, in the syntax that vLLM's backend understands"""
        choice: list[Annotated[str, Field(min_length=1)]] | None = Field(None, min_length=1, exclude_if=_is_none)
        """texts of which the output is one; any other response is rejected (`not_a_choice`)"""
        grammar: str | None = Field(None, min_length=1, exclude_if=_is_none)
        """context-free grammar of the whole output, in EBNF with the first rule `root`, or in Lark's syntax"""

        @model_validator(mode="after")
        def _check_kind(self) -> "StructuredOutputs":
            if len(kinds := list(self.model_dump())) != 1:
                kinds_text = f"{' and '.join(kinds)} are given" if kinds else "none is given"
                raise ValueError(f"give exactly one of json, regex, choice and grammar: {kinds_text}")
            return self


Seeds = Literal["row", "run", "none"]
"""random numbers that sampling uses: of each generation's own seed, of one seed of each engine, or unseeded ones"""


class Sampling(Section):
    """Choice of each next token, passed to vLLM's SamplingParams unchanged. vLLM's `seed` and `n` are not keys here:
    the job's `seed` and `samples` take their place."""

    temperature: float = Field(1.0, ge=0, le=2)
    """randomness of the choice; 0 always takes the likeliest token"""
    top_p: float = Field(1.0, gt=0, le=1)
    """share of the probability: the likeliest tokens that together have this share are kept; 1 keeps all tokens"""
    top_k: int = Field(0, ge=-1)
    """number of likeliest tokens that are kept; 0 and -1 keep all"""
    min_p: float = Field(0.0, ge=0, le=1)
    """smallest probability of a token that is kept, as a share of the likeliest token's; 0 keeps all"""
    repetition_penalty: float = Field(1.0, gt=0)
    """penalty on tokens that are in the prompt or in the text so far; 1 is none, a larger value discourages them"""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """amount taken from the score of each token that is in the text so far"""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """amount taken from the score of a token for each time that it is in the text so far"""
    max_tokens: int = Field(512, gt=0)
    """largest number of tokens of one output"""
    min_tokens: int = Field(0, ge=0)
    """number of tokens that an output has before it may end"""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """texts that end an output; they are cut off"""
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = []
    """ids of tokens that end an output"""
    ignore_eos: bool = False
    """generation up to `max_tokens`, even after the model's end-of-text token"""
    repetition_detection: RepetitionDetection | None = Field(None, exclude_if=_is_none)
    """loops that end an output early, after its first `min_tokens` tokens"""
    bad_words: list[Annotated[str, Field(min_length=1)]] = Field([], exclude_if=_is_empty)
    """texts that are never written, each in its own spelling, alone or after a blank; a text that the model's tokenizer
    can also put together from other tokens may still occur"""
    logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, exclude_if=_is_empty
    )
    """numbers that are added to the scores of tokens, by the tokens' ids: `{198: -100}` all but forbids token 198"""
    structured_outputs: StructuredOutputs | None = Field(None, exclude_if=_is_none)
    """form that each output follows: a JSON schema, a regular expression, a list of texts or a grammar; for the recipes
    `template` and `messages` alone"""

    thinking_token_budget: int | None = Field(None, ge=0, exclude_if=_is_none)
    """largest number of tokens of a reasoning model's thoughts, after which it has to answer; needs
    `engine.reasoning_parser`"""

    @model_validator(mode="after")
    def _check_tokens(self) -> "Sampling":
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})")
        structured = self.structured_outputs
        if self.stop and structured and (structured.regex or structured.grammar):
            raise ValueError("stop would end a text before it follows structured_outputs: leave one of the two out")
        return self


class Cluster(Section):
    """Ray cluster, the number of engines in it, and the resources of each."""

    address: Url | None = None
    """address of a Ray cluster; by default RAY_ADDRESS, else the job starts a Ray of its own on this machine"""
    replicas: int = Field(1, gt=0)
    """number of replicas: Ray actors with one engine each"""
    gpus_per_replica: float | None = Field(None, ge=0)
    """GPUs of each replica; by default `tensor_parallel_size` x `pipeline_parallel_size` where the cluster has GPUs,
    else 0"""
    cpus_per_replica: int | None = Field(None, gt=0)
    """CPU cores of each replica that has no GPU, which no other replica uses; by default an equal share of the
    machine's cores"""
    grace_seconds: float = Field(30.0, ge=0)
    """seconds from SIGTERM to the kill that follows it; rows that are being generated may use all but the last 5 of
    them to finish. After Ctrl-C they have the same time, until it is pressed again"""
    wait_minutes: float | None = Field(30.0, ge=0)
    """minutes that the job waits while the cluster has no place for any replica: nodes may join, and other jobs end.
    null waits without an end. A Ray that the job starts on this machine is not waited for"""
    price_per_replica_hour: float | None = Field(None, ge=0)
    """price of one replica for one hour, its GPUs included, in any currency; without it no cost is shown"""


class Metrics(Section):
    """Prometheus endpoint of the job (docs/watch.md)."""

    port: int | None = Field(9400, ge=0, le=65535)
    """port of the endpoint: 0 takes any free port, null turns the endpoint off. Where the port is taken, another free
    one is used and logged"""
    host: str = "127.0.0.1"
    """address that the endpoint listens on"""
    targets: str | None = "/tmp/kindling-targets"
    """folder for the file by which Prometheus finds this job (file_sd); null writes none"""

"""The job file: one YAML document, validated here. Unknown keys are refused, with the nearest known one named."""

import difflib
import re
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from schemas.errors import JobError

# What a link that carries its own permission has in its query: S3, Google, Azure, and plain tokens.
_SIGNATURE = re.compile(r"[?&](x-amz-signature|x-goog-signature|sig|signature|token|access_token|api_key)=", re.I)
_SECRET = "secret"


def _without_secret(url: str) -> str:
    # Each link of a chain (simplecache::https://...) may hold a secret; on the web a user's name may be a token.
    parts = [urlsplit(part) for part in url.split("::") if "://" in part]
    if any(part.password or (part.username and part.scheme in ("http", "https")) for part in parts) or (
        parts and _SIGNATURE.search(url)
    ):
        raise PydanticCustomError(
            _SECRET, "a secret in a URL would be written to run.json, and to each row as its source"
        )
    return url


Url = Annotated[str, Field(min_length=1), AfterValidator(_without_secret)]
"""a local path, or a URL of any fsspec file system"""


def _without_token(engine: dict[str, Any]) -> dict[str, Any]:
    if isinstance(engine.get("hf_token"), str):
        raise PydanticCustomError(_SECRET, "a token here (hf_token) would be written to run.json")
    return engine


EngineArguments = Annotated[dict[str, Any], AfterValidator(_without_token)]
"""vLLM engine arguments, handed over as they are"""


class Section(BaseModel):
    """Base of every section of a job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Input(Section):
    """What to read: files (`path`) or a Hugging Face dataset (`dataset`)."""

    path: Url | Annotated[list[Url], Field(min_length=1)] | None = None
    """a file, a folder, a glob, or a list of them; local, or a URL of any fsspec file system (s3://, gs://, hf://)"""
    dataset: str | None = None
    """a Hugging Face dataset: hub id or local folder"""
    config: str | None = None
    """name of the dataset's configuration"""
    split: str = "train"
    revision: str | None = None
    """commit, tag or branch of the dataset"""
    format: Literal["auto", "parquet", "jsonl", "json", "csv", "text"] = "auto"
    """auto goes by the file's ending; json is a list of objects, held whole"""
    columns: dict[str, str] = {}
    """recipe field -> input column, where the names differ: {emotion: emotions}"""
    keep: list[str] = []
    """further input columns, carried along into the `inputs` of each row"""
    limit: int | None = Field(None, gt=0)
    """take only the first so many rows"""
    storage_options: dict[str, Any] = {}
    """handed to fsspec; run.json keeps the names of its keys and none of their values"""

    @model_validator(mode="after")
    def _one_source(self) -> "Input":
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either input.path or input.dataset")
        return self


class Model(Section):
    """Which model, and how vLLM is to load it."""

    id: str = Field("embedded", min_length=1)
    """hub id, local path, `embedded` (the model a package ships), or `fake` (a latency model: tests and simulation)"""
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    """vLLM's name of the format; by default what the checkpoint itself says"""
    trust_remote_code: bool = False


class Classifier(Section):
    """Which model tells the emotions of texts: one with GoEmotions' labels."""

    id: str = Field("embedded", min_length=1)
    """`embedded` (the packaged encoder with the head that Kindling ships), a folder that `kindling train` wrote, or any
    Hugging Face sequence classifier by hub id or folder"""
    revision: str | None = None
    max_tokens: int = Field(128, gt=2)
    """of one sentence; what is longer is cut"""


class Sampling(Section):
    """Handed to vLLM's SamplingParams as they are. `seed` and `n` are not here: see `seed` and `samples` of the job."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    max_tokens: int = Field(512, gt=0)
    min_tokens: int = Field(0, ge=0)
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    structured_outputs: Annotated[dict[Literal["json"], dict[str, Any]], Field(min_length=1)] | None = Field(
        None, exclude_if=lambda structured: structured is None
    )
    """{json: <a JSON schema>}: what is written is JSON that follows it; for the recipe `template` alone"""

    @model_validator(mode="after")
    def _room(self) -> "Sampling":
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is above max_tokens ({self.max_tokens})")
        return self


class Cluster(Section):
    """How many engines, and what each gets."""

    address: str | None = None
    """Ray address; by default RAY_ADDRESS, else a Ray of the job's own on this machine"""
    replicas: int = Field(1, gt=0)
    gpus_per_replica: float | None = Field(None, ge=0)
    """default: on GPUs what tensor_parallel_size x pipeline_parallel_size needs, else 0"""
    cpus_per_replica: int | None = Field(None, gt=0)
    """cores of each CPU engine, disjoint; by default an equal share of the machine's cores"""
    grace_seconds: float = Field(30.0, ge=0)
    """time from SIGTERM to the kill that follows it; rows in flight use it, but for 5 s, to come to their end"""
    price_per_replica_hour: float | None = Field(None, ge=0)
    """what an hour of one replica costs, with its GPUs, in whatever currency you reckon in; none says no cost"""


class Metrics(Section):
    """The Prometheus endpoint."""

    port: int | None = Field(9400, ge=0, le=65535)
    """null turns it off; 0 takes any free port; where the port is taken, another free one is used and said"""
    host: str = "127.0.0.1"
    targets: str | None = "/tmp/kindling-targets"
    """folder in which Prometheus finds the jobs of this host (file_sd); null writes nothing there"""


Job = TypeVar("Job", bound=Section)


def parse_job(data: Any, kind: type[Job]) -> Job:
    """Validates a job as read from YAML.

    Args:
        kind: what it must be.

    Raises:
        JobError: the first fault: its key, value, cause, and for an unknown key the nearest known one.
    """
    if not isinstance(data, dict):
        raise JobError("job file", type(data).__name__, "the top level must be keys and values", "see deploy/jobs/")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _job_error(error, kind) from None


def _job_error(error: ValidationError, kind: type[Section]) -> JobError:
    # No other error may show a secret; and an unknown key is often the reason why a required one is missing.
    details = sorted(error.errors(), key=lambda e: (e["type"] != _SECRET, e["type"] != "extra_forbidden"))
    first = details[0]
    # A whole section may hold a secret, and an error is read in logs.
    value = None if isinstance(first["input"], dict) or "storage_options" in first["loc"] else first["input"]
    path, section = _walked(first["loc"], kind)
    if first["type"] == "extra_forbidden":
        # Its value may be a secret that somebody tried to give.
        return JobError(".".join(map(str, path)), None, "unknown key", _nearest(path, section))
    key = ".".join(str(part) for part in path if not _is_union_tag(part)) or "job file"
    if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        tag, field = first["ctx"].get("tag"), next(part for part in reversed(path) if part in section.model_fields)
        sections = _sections_in(section.model_fields[field].annotation)
        kinds = ", ".join(get_args(each.model_fields["kind"].annotation)[0] for each in sections)
        return JobError(f"{key}.kind", tag, "no such kind" if tag else "this key is missing", f"give one of {kinds}")
    if first["type"] == "missing":
        return JobError(key, None, "this key is required and missing", f"add `{key}` to the job file")
    if first["type"] == _SECRET:
        return JobError(key, None, first["msg"], "set it in the environment, as AWS_SECRET_ACCESS_KEY or HF_TOKEN are")
    return JobError(key, value, first["msg"].removeprefix("Value error, "), "correct the value in the job file")


def _is_union_tag(part: int | str) -> bool:
    """Pydantic puts the tried type of a union (`str`, `list[str]`) into an error's path; no key looks like it."""
    return isinstance(part, str) and (
        part in {"str", "int", "float", "constrained-str", "constrained-int", "constrained-float"} or "[" in part
    )


def _walked(loc: tuple[int | str, ...], kind: type[Section]) -> tuple[list[int | str], type[Section]]:
    """The path of an error as the job file has it, and the section of its last key.

    Pydantic puts the `kind` of a section, where there are several, into the path too.
    """
    path, section, keys = [], kind, iter(loc)
    for key in keys:
        path.append(key)
        if key not in section.model_fields:
            break
        annotation = section.model_fields[key].annotation
        sections = _sections_in(annotation)
        if get_origin(annotation) in (dict, list):  # of sections, by names that the job chooses or by their number
            path += [number for number in [next(keys, None)] if number is not None]
        if len(sections) > 1:
            tag = next(keys, None)
            sections = [each for each in sections if tag in get_args(each.model_fields["kind"].annotation)]
        if not sections:
            break
        (section,) = sections
    return [*path, *keys], section


def _nearest(path: list[int | str], section: type[Section]) -> str:
    known = list(section.model_fields)
    prefix = "".join(f"{part}." for part in path[:-1])
    close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{prefix}{close[0]}`?"
    return f"the keys here are {', '.join(known)}"


def _sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a key may hold: itself, an optional one, one of many, or one of several kinds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections_in(each)]

"""The job file of `kindling label`."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.job import Classifier, Section, Url


class LabelInput(Section):
    """Raw text: a line is an utterance, a paragraph or a heading."""

    path: Url | Annotated[list[Url], Field(min_length=1)]
    """a file, a folder, a glob, or a list of them; local, or a URL of any fsspec file system"""
    encoding: Literal["utf-8", "latin-1", "cp1252"] = "utf-8"
    """a line that is not of it is dropped, and counted"""


class Segmentation(Section):
    """From lines to sentences."""

    language: str = Field("en", pattern=r"^[a-z]{2,3}$")
    """whose rules tell where a sentence ends (ISO 639)"""
    min_words: int = Field(3, gt=0)
    max_words: int = Field(64, gt=0)


class LabelCluster(Section):
    """The pool of classifier actors."""

    address: str | None = None
    """Ray address; by default RAY_ADDRESS, else a Ray of the job's own on this machine"""
    actors: int = Field(1, gt=0)
    gpus_per_actor: float = Field(0, ge=0, le=1)
    cpus_per_actor: int | None = Field(None, gt=0)
    """by default an equal share of the cluster's cores, less one for segmentation where there are several"""


class LabelOutput(Section):
    """Where the contexts go."""

    path: Url
    """the run folder: local, or a URL of any fsspec file system"""
    bytes_per_shard: int = Field(1 << 20, gt=0)
    """of raw text in one shard: what a crash costs, for each actor"""


class LabelJob(Section):
    """A label job: raw text to sentences to contexts with emotions."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    input: LabelInput
    segmentation: Segmentation = Segmentation()
    classifier: Classifier = Classifier()
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["tuned"] = 0.5
    """a sentence is kept where its best label is not neutral and scores at least this, and keeps every label that does;
    tuned: those that the classifier brings, one a label"""
    cluster: LabelCluster = LabelCluster()
    output: LabelOutput

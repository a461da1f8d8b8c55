"""The job file of `kindling label`: raw text becomes sentences, and sentences with an emotion become contexts."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.job import Classifier, Section, Url


class LabelInput(Section):
    """Raw text, of which each line is an utterance, a paragraph or a heading."""

    short_key = "path"

    path: Url | Annotated[list[Url], Field(min_length=1)]
    """text files: a file, a folder, a glob, or a list of these; local, or URLs of any fsspec file system"""
    encoding: Literal["utf-8", "latin-1", "cp1252"] = "utf-8"
    """encoding of the files; a line that does not fit it is dropped and counted"""


class Segmentation(Section):
    """Rules that split lines into sentences."""

    language: str = Field("en", pattern=r"^[a-z]{2,3}$")
    """language of the text (ISO 639 code), whose rules find the end of each sentence"""
    min_words: int = Field(3, gt=0)
    """smallest number of words in a sentence; a shorter one is dropped"""
    max_words: int = Field(64, gt=0)
    """largest number of words in a sentence; a longer one is dropped"""


class LabelCluster(Section):
    """Ray cluster, and the actors in it that run the classifier."""

    address: Url | None = None
    """address of a Ray cluster; by default RAY_ADDRESS, else the job starts a Ray of its own on this machine"""
    actors: int = Field(1, gt=0)
    """number of Ray actors with one classifier each"""
    gpus_per_actor: float = Field(0, ge=0, le=1)
    """share of a GPU that each actor has"""
    cpus_per_actor: int | None = Field(None, gt=0)
    """CPU cores of each actor; by default an equal share of the cluster's cores, where one of several is left for
    segmentation"""


class LabelOutput(Section):
    """Run folder, and the size of its shards."""

    short_key = "path"

    path: Url
    """run folder: local, or a URL of any fsspec file system"""
    bytes_per_shard: int = Field(1 << 20, gt=0)
    """bytes of raw text in one shard; a crash loses at most this much work of each actor"""


class LabelJob(Section):
    """Job of `kindling label`: raw text becomes sentences, and sentences with an emotion become contexts."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """name of the run: letters, digits, `.`, `_` and `-`"""
    input: LabelInput
    """raw text"""
    segmentation: Segmentation = Segmentation()
    """rules that split lines into sentences"""
    classifier: Classifier = Classifier()
    """classifier that scores the 28 emotions of each sentence"""
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["tuned"] = 0.5
    """smallest score of a label that a sentence keeps. A sentence is kept where its best label reaches this score and
    is not neutral. `tuned` takes the classifier's own thresholds, one for each label"""
    cluster: LabelCluster = LabelCluster()
    """Ray cluster, and the classifier's actors in it"""
    output: LabelOutput
    """run folder, and the size of its shards"""

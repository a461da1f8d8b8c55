"""A compose job, and what a composed corpus says of itself."""

from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from schemas.job import Input, Section, Url
from schemas.rows import ROW_SCHEMA
from schemas.run import Record


class Part(Section):
    """Where some of a corpus comes from, and how much of it: an augmented run, or files that people wrote."""

    run: Url | None = None
    """a run folder, of which the accepted rows are taken"""
    variant: str | None = None
    """of a run with a sweep, take this variant alone"""
    input: Input | None = None
    """files or a dataset, as an augmentation job reads them; `columns: {text: <column>}` where it has another name"""
    words: Annotated[int, Field(gt=0)] | Literal["all"] | None = None
    """so many, or all there are"""
    weight: float | None = Field(None, gt=0, le=1e6)
    """share of the words that parts with `words` leave of the budget; 1 by default"""

    @model_validator(mode="after")
    def _sound(self) -> "Part":
        if (self.run is None) == (self.input is None):
            raise ValueError("give either run or input")
        if self.variant is not None and self.run is None:
            raise ValueError("a variant is a run's; this part has none")
        if self.words is not None and self.weight is not None:
            raise ValueError("give either words or weight")
        if self.input is not None and self.input.keep:
            raise ValueError("input.keep has no use here: a corpus keeps the text alone")
        return self


class ComposeOutput(Section):
    """Where a corpus goes."""

    path: Url
    """a folder that is empty or not there yet: local, or a URL of any fsspec file system"""


class ComposeJob(Section):
    """Makes a corpus from parts, to a budget of words."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    words: int = Field(gt=0)
    """the budget: the corpus never has more"""
    parts: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], Part] = Field(min_length=1)
    seed: int = 0
    """draws the documents of a part that has more than is asked of it"""
    output: ComposeOutput


class PartRecord(Record):
    """What a part came to."""

    content: dict[str, str]
    """each file's, dataset's or run's name, and what identifies its content"""
    complete: bool
    """false for a run whose job had not come to its end"""
    documents_there: int
    words_there: int
    words_asked: int
    documents: int
    words: int
    share: float
    """of the corpus's words, 0 to 1"""
    unreadable: int
    """documents that are no text, blank, or not valid Unicode; none of them is in the corpus"""
    first_unreadable: str


class Composition(Record):
    """composition.json: the parts of a corpus, and what identifies it."""

    format: int = 1
    name: str
    created_at: str
    """ISO 8601, UTC"""
    job: dict[str, Any]
    fingerprint: str
    """sha256 over `identity`: the same gives the same corpus"""
    identity: dict[str, Any]
    words_budget: int
    words: int
    documents: int
    parts: dict[str, PartRecord]
    files: dict[str, str]
    """sha256 of each data file by its path below the corpus"""
    versions: dict[str, str]


def _column(name: str, type_: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, type_, nullable=False, metadata={"description": meaning})


CORPUS_SCHEMA = pa.schema(
    [
        _column("text", pa.string(), "the document"),
        _column("words", pa.int32(), "words in it, as whitespace separates them"),
        _column("part", pa.string(), "the part that it is from"),
        _column("fingerprint", pa.string(), "of the run that it is from; of a file, what identifies its content"),
        # With these a document is found again in its run, or in its file; what nobody generated has no variant.
        *(ROW_SCHEMA.field(name) for name in ("source", "row_index", "sample", "variant")),
    ]
)

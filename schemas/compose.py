"""The job file of `kindling compose`, the record of a corpus (composition.json), and the Arrow schema of its
documents."""

from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from schemas.job import Input, Section, Url
from schemas.rows import ROW_SCHEMA, column
from schemas.run import Record


class Part(Section):
    """Part of a corpus: an augmented run, or files that people wrote."""

    run: Url | None = None
    """folder of an augmented run, whose accepted rows are taken"""
    variant: str | None = None
    """name of the variant to take from a run with a sweep; by default all of them"""
    dedup: bool = Field(True, exclude_if=lambda dedup: dedup)
    """omission of the rows that `kindling dedup` removed from a run, where it was called; `false` takes all rows"""
    input: Input | None = None
    """files or a dataset, whose column `text` is taken; `columns: {text: COLUMN}` names another column"""
    words: Annotated[int, Field(gt=0)] | Literal["all"] | None = None
    """number of words to take, or `all`"""
    weight: float | None = Field(None, gt=0, le=1e6)
    """share of the budget that parts with `words` leave, relative to the weights of the other parts; 1 by default"""

    @model_validator(mode="after")
    def _check_amount(self) -> "Part":
        if (self.run is None) == (self.input is None):
            raise ValueError("give either run or input")
        if self.variant is not None and self.run is None:
            raise ValueError("a variant is a run's; this part has none")
        if not self.dedup and self.run is None:
            raise ValueError("`dedup: false` is for a run; this part has none")
        if self.words is not None and self.weight is not None:
            raise ValueError("give either words or weight")
        if self.input is not None and self.input.keep:
            raise ValueError("input.keep has no use here: a corpus keeps the text alone")
        return self


class ComposeOutput(Section):
    """Folder of the corpus."""

    short_key = "path"

    path: Url
    """folder that is empty or does not exist yet: local, or a URL of any fsspec file system"""


class ComposeJob(Section):
    """Job of `kindling compose`: parts are mixed into one corpus, up to a budget of words."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """name of the corpus: letters, digits, `.`, `_` and `-`"""
    words: int = Field(gt=0)
    """budget: the largest number of words of the corpus"""
    parts: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")], Part] = Field(min_length=1)
    """parts of the corpus, under names of your own"""
    seed: int = 0
    """seed that chooses the documents of a part which has more words than are needed"""
    output: ComposeOutput
    """folder of the corpus"""


class PartRecord(Record):
    """Amount that a part gave to the corpus."""

    content: dict[str, str]
    """hash, etag or fingerprint of the content of each file, dataset or run, by its name"""
    complete: bool
    """false for a run whose job was not finished"""
    documents_there: int
    """number of documents that the source has"""
    words_there: int
    """number of words that the source has"""
    words_asked: int
    """number of words that the job asks of this part"""
    documents: int
    """number of documents in the corpus"""
    words: int
    """number of words in the corpus"""
    share: float
    """share of the corpus's words, 0 to 1"""
    unreadable: int
    """number of documents that are no text, blank, or not valid Unicode; none of them is in the corpus"""
    first_unreadable: str
    """place and fault of the first of them; empty where there is none"""


class CompositionRecord(Record):
    """Record of a corpus, composition.json: its parts, and its identity."""

    format: int = 1
    """version of this record's layout"""
    name: str
    """name of the corpus"""
    created_at: str
    """time of the corpus's making: ISO 8601, UTC"""
    job: dict[str, Any]
    """job as resolved, defaults included"""
    fingerprint: str
    """sha256 over `identity`; equal fingerprints give equal corpora"""
    identity: dict[str, Any]
    """all keys and contents that decide which documents the corpus has"""
    words_budget: int
    """largest number of words that the job allows"""
    words: int
    """number of words in the corpus"""
    documents: int
    """number of documents in the corpus"""
    parts: dict[str, PartRecord]
    """amounts of each part, by its name"""
    files: dict[str, str]
    """sha256 of each data file, by its path below the corpus"""
    versions: dict[str, str]
    """versions of Kindling and of the libraries that made the corpus"""


CORPUS_SCHEMA = pa.schema(
    [
        column("text", pa.string(), "document"),
        column("words", pa.int32(), "number of words in the document, as whitespace separates them"),
        column("part", pa.string(), "name of the part that the document is from"),
        column("fingerprint", pa.string(), "fingerprint of the document's run, or hash of its file"),
        # Place of the document in its run or file. A document from a file has no variant.
        *(ROW_SCHEMA.field(name) for name in ("source", "row_index", "sample", "variant")),
    ]
)

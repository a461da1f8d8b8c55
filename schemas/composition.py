"""The record of a corpus (composition.json), and the Arrow schema of its documents."""

from typing import Any

import pyarrow as pa

from schemas.record import Record
from schemas.rows import ROW_SCHEMA, column


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

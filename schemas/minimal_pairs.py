"""The source of minimal pairs, shared by the sections `blimp` of train jobs and of evaluate jobs."""

from typing import Annotated

from pydantic import Field

from schemas.job import Section, Url


class MinimalPairs(Section):
    """Minimal pairs: those of BLiMP, or of files in the same form."""

    path: Url | None = None
    """files `PARADIGM.jsonl` with the columns `sentence_good` and `sentence_bad`, or `Context1`, `Context2` and
    `Target1` of EWoK: a folder, a glob, or one file; by default the dataset is read"""
    dataset: Url = "nyu-mll/blimp"
    """Hugging Face dataset with one configuration for each paradigm: hub id or local folder"""
    revision: str | None = None
    """commit, tag or branch of the dataset"""
    paradigms: Annotated[list[str], Field(min_length=1)] | None = None
    """names of the paradigms to use; all by default"""

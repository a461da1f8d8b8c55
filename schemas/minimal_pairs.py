"""Where minimal pairs come from, in train jobs and evaluate jobs alike."""

from typing import Annotated

from pydantic import Field

from schemas.job import Section, Url


class MinimalPairs(Section):
    """BLiMP, or pairs of one's own."""

    path: Url | None = None
    """a folder of `<paradigm>.jsonl` with `sentence_good` and `sentence_bad`, some of those files, or one; else the
    dataset is read"""
    dataset: str = "nyu-mll/blimp"
    """a Hugging Face dataset with a configuration for each paradigm: hub id or local folder"""
    revision: str | None = None
    """of the dataset: commit, tag or branch"""
    paradigms: Annotated[list[str], Field(min_length=1)] | None = None
    """these alone; by default all"""

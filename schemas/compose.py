"""The job file of `kindling compose`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.job import Input, Section, Url


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

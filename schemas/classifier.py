"""The `classifier` section: which model tells the emotions of texts."""

from pydantic import Field

from schemas.job import Section


class Classifier(Section):
    """A classifier with GoEmotions' labels."""

    id: str = Field("embedded", min_length=1)
    """`embedded` (the packaged encoder with the head that Kindling ships), a folder that `kindling train` wrote, or any
    Hugging Face sequence classifier by hub id or folder"""
    revision: str | None = None
    max_tokens: int = Field(128, gt=2)
    """of one sentence; what is longer is cut"""

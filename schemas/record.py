"""The base of records on disk, apart from run.py, which needs Arrow."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of records on disk. Unknown keys are refused, so that an old reader never misreads a newer record."""

    model_config = ConfigDict(extra="forbid")

"""run.json of a label run: the job as resolved, what identifies it, and which bytes are which shard."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.labelling.ranges import LineRange
from schemas.errors import RunError
from services.storage.store import ShardStore

_NAME = "run.json"


class LabelRecord(BaseModel):
    """See the module."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    kind: Literal["label"] = "label"
    name: str
    created_at: str
    job: dict[str, Any]
    fingerprint: str
    identity: dict[str, Any]
    ranges: list[LineRange]
    versions: dict[str, str]


def write_record(store: ShardStore, run: LabelRecord) -> None:
    """Writes run.json, atomically."""
    store.write_text(_NAME, run.model_dump_json(indent=2) + "\n")


def read_record(store: ShardStore) -> LabelRecord | None:
    """run.json; None where there is none, or it is of a run of another kind.

    Raises:
        RunError: it says that it is a label run's, and cannot be read as one.
    """
    path = store.path(_NAME)
    if not store.fs.exists(path):
        return None
    raw = store.fs.cat_file(path)
    try:
        if json.loads(raw).get("kind") != "label":
            return None
    except (ValueError, AttributeError, RecursionError):
        return None
    try:
        return LabelRecord.model_validate_json(raw)
    except ValidationError as error:
        cause = f"not a run.json that this version reads: {error.errors()[0]['msg']}"
        raise RunError(path, None, cause, "read it with the version that wrote it, or name another folder") from None

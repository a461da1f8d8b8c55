"""run.json of a label run: the resolved job, its identity, and the range of bytes of each shard."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.labelling.ranges import LineRange
from schemas.errors import RunError
from services.storage.store import ShardStore

_NAME = "run.json"


class LabelRecord(BaseModel):
    """Content of run.json.

    Attributes:
        format: version of this format.
        kind: the verb, which tells the file apart from that of an `augment` run.
        name: name of the job.
        created_at: time of the first start, ISO 8601 in UTC.
        job: the job with all defaults.
        fingerprint: sha256 of the identity.
        identity: everything that can change the output, flat.
        ranges: range of the input for each shard.
        versions: versions of Python and of packages.
    """

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
    """Reads run.json; returns None where there is none, or where it belongs to a run of another kind.

    Raises:
        RunError: run.json belongs to a label run, and this version cannot read it.
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

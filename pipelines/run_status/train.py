"""How far the folders of other jobs are that somebody may ask `kindling status` of: a training, a labelling."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from schemas.errors import RunError
from services.observability.metrics import EndpointError, EndpointMetrics, read_endpoint
from services.storage.filesystem import is_local
from services.storage.store import ShardStore

_TRAIN_RECORD, _COMPOSITION = "train.json", "composition.json"


@dataclass(frozen=True)
class TrainStatus:
    """How far a training is.

    Attributes:
        source: `endpoint` where the running training told how far it is, else `disk`.
        silent: why no endpoint did; empty where one did, or none was asked.
        stages: names of the job's.
        stage: number of the one that is being trained, from 0; that of the last where all are done.
        step, steps: of that stage, the first at its last checkpoint where only the disk tells; None before it begins.
        loss: over the last logged steps.
        held_out_loss: of the last evaluation.
        tokens_per_second, eta_seconds: of a training that runs.
    """

    run: str
    name: str
    complete: bool
    source: str
    silent: str
    stages: list[str]
    stage: int
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    held_out_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    kind: str = "train"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def train_status(store: ShardStore) -> TrainStatus | None:
    """That of a training; None where the folder holds none.

    Raises:
        RunError: its record cannot be read.
    """
    path = Path(store.path(_TRAIN_RECORD))
    if not is_local(store.fs) or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        stages = [f"{number}-{stage['kind']}" for number, stage in enumerate(record["job"]["stages"])]
        done = len(stages) if "report" in record else len(record["stages"])  # a classifier's is written at its end
        name = record["name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(str(path), None, "it is no record of a training", "name a folder that one wrote") from None
    found = TrainStatus(store.url, name, done == len(stages), "disk", "", stages, min(done, len(stages) - 1))
    if found.complete:
        return found
    found = replace(found, **_last_checkpoint(path.parent / "work" / stages[done]))
    try:
        told = read_endpoint(record.get("metrics", ""), record.get("start_id", ""))
    except EndpointError as error:
        return replace(found, silent=str(error))
    return replace(found, source="endpoint", **_told(told, stages[done]))


def _last_checkpoint(work: Path) -> dict[str, Any]:
    states = [
        state
        for path in work.glob("checkpoint-*/trainer_state.json")
        if (state := _read(path)) and isinstance(state.get("global_step"), int)
    ]
    if not states:
        return {}
    last = max(states, key=lambda state: state["global_step"])
    logged = {name: value for line in last.get("log_history", []) for name, value in line.items()}
    losses = {"loss": logged.get("loss"), "held_out_loss": logged.get("eval_loss")}
    return {"step": last["global_step"], "steps": last.get("max_steps"), **_finite(losses)}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # it is being written, or a newer one has taken its place
        return None


def _told(told: EndpointMetrics, stage: str) -> dict[str, Any]:
    names = {
        "step": "steps_total", "steps": "planned_steps", "loss": "loss", "held_out_loss": "held_out_loss",
        "tokens_per_second": "tokens_per_second", "eta_seconds": "eta_seconds",
    }  # fmt: skip
    values = {name: told.value(f"kindling_train_{series}", stage=stage) for name, series in names.items()}
    return {name: int(value) if name in ("step", "steps") else value for name, value in _finite(values).items()}


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are known and that JSON can hold: a training that diverged has losses that are neither."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}

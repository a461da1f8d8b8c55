"""Status of a `train` run."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.run_folder import RECORD_NAMES
from pipelines.run_status.page import EndpointStatus, progress_bar, time_left
from schemas.errors import RunError
from schemas.text import clock, shorten
from services.observability.endpoint_reader import EndpointError, EndpointMetrics, read_endpoint
from services.storage.store import ShardStore


@dataclass(frozen=True, kw_only=True)
class TrainStatus(EndpointStatus):
    """Progress of a training.

    Attributes:
        stages: names of the job's stages.
        stage: number of the stage that is being trained, from 0; the last one where all are done.
        step, steps: steps done of that stage, and all its steps; from disk the step of its last checkpoint; None before
            the stage begins.
        loss: mean training loss over the last logged steps.
        held_out_loss: loss on the tokens of held-out rows at the last evaluation.
        tokens_per_second, eta_seconds: speed and longest time left of a training that runs.
    """

    kind: str = "train"
    stages: list[str]
    stage: int
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    held_out_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None

    def line(self) -> str:
        """Stage, step and time left."""
        return f"{shorten(self.name)}: {self._stage_text()}{time_left(self.eta_seconds)}"

    def page(self, now: datetime, width: int) -> tuple[list[str], list[list[str]]]:
        """Stage, step, losses, speed and time left."""
        lines = [f"{self.name}: {self._stage_text()}"]
        if self.complete:
            return lines, []
        if self.step is not None and self.steps:
            lines.append(progress_bar(self.step, self.steps, width))
        lines += self.silence_lines()
        facts = {
            "loss": self.loss and f"{self.loss:.4f}",
            "held out": self.held_out_loss and f"{self.held_out_loss:.4f}",
            "speed": self.tokens_per_second and f"{self.tokens_per_second:,.0f} tokens/s",
            "left": self.eta_seconds and f"at most {clock(self.eta_seconds)}",
        }
        return lines + [f"{name:9} {value}" for name, value in facts.items() if value], []

    def _stage_text(self) -> str:
        if self.complete:
            return f"a training, complete: {', '.join(self.stages)}"
        step = "before its first step" if self.step is None else f"step {self.step} of {self.steps}"
        stage = f"stage {self.stages[self.stage]} ({self.stage + 1} of {len(self.stages)})"
        return f"a training, {self.state_text()}, {stage}, {step}"


def train_status(store: ShardStore, may_run: bool) -> TrainStatus:
    """Status of a training, from its record and checkpoints, and from its endpoint while it runs.

    Args:
        may_run: whether it may run now; the endpoint is asked only then.

    Raises:
        RunError: its record cannot be read.
    """
    path = Path(store.path(RECORD_NAMES["train"]))
    try:
        record = json.loads(path.read_text())
        stages = [f"{number}-{stage['kind']}" for number, stage in enumerate(record["job"]["stages"])]
        done = len(stages) if "report" in record else len(record["stages"])  # a classifier's is written at its end
        name = record["name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(str(path), None, "it is no record of a training", "name a folder that one wrote") from None
    status = TrainStatus(
        run=store.url,
        name=name,
        complete=done == len(stages),
        source="disk",
        silent="",
        stages=stages,
        stage=min(done, len(stages) - 1),
    )
    if status.complete:
        return status
    status = replace(status, **_last_checkpoint(path.parent / "work" / stages[done]))
    if not may_run:
        return status
    try:
        endpoint = read_endpoint(record.get("metrics", ""), record.get("start_id", ""))
    except EndpointError as error:
        return replace(status, silent=str(error))
    return replace(status, source="endpoint", **_from_endpoint(endpoint, stages[done]))


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


def _from_endpoint(endpoint: EndpointMetrics, stage: str) -> dict[str, Any]:
    names = {
        "step": "steps_total", "steps": "planned_steps", "loss": "loss", "held_out_loss": "held_out_loss",
        "tokens_per_second": "tokens_per_second", "eta_seconds": "eta_seconds",
    }  # fmt: skip
    values = {name: endpoint.value(f"kindling_train_{series}", stage=stage) for name, series in names.items()}
    return {name: int(value) if name in ("step", "steps") else value for name, value in _finite(values).items()}


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values that are known and finite: a training that diverged has losses that JSON cannot hold."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}

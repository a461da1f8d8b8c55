"""How far a stage of a training is: counted once, told to the terminal or the log, to Prometheus and to TensorBoard."""

import logging
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from services.observability.series import TrainMetrics
from services.observability.terminal import LINE_SECONDS, Bar, clock

_log = logging.getLogger("kindling")

LOG_STEPS = 10
"""steps from one loss that is told to the next"""
# What is on disk so soon is what TensorBoard shows.
_FLUSH_SECONDS = 10


class StageProgress:
    """Counts the steps of a stage. Inside the block `begin` opens what it tells.

    Args:
        stage: its name, `0-clm`.
        metrics: the series of the job.
        curves: the folder for the stage's TensorBoard events.

    Attributes:
        step, steps: those that are done, and those of the whole stage.
        tokens: trained on, padding not counted, since the stage began.
    """

    def __init__(self, stage: str, metrics: TrainMetrics, curves: Path) -> None:
        self.stage, self._metrics, self._folder = stage, metrics, curves
        self.step = self.steps = self.tokens = 0

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.steps:
            self._bar.__exit__(*exc)
            self._curves.close()

    def begin(self, steps: int, step: int = 0, tokens: int = 0) -> None:
        """The stage trains from a step on, the first or that of a checkpoint, which saw so many tokens."""
        self.steps, self.step, self.tokens = steps, step, tokens
        self._series("planned_steps").set(steps)
        self._series("steps").inc(step)
        self._series("tokens").inc(tokens)
        # TensorBoard reads the files of a folder in the order of the seconds in their names.
        written = max((path.stat().st_mtime for path in self._folder.glob("events.*")), default=0)
        sleep(max(0, int(written) + 1 - time()))
        # What a killed start wrote behind its last checkpoint is told once more, so TensorBoard is to forget it.
        self._curves = SummaryWriter(str(self._folder), purge_step=step + 1, flush_secs=_FLUSH_SECONDS)
        self._bar = Bar(self.stage, steps).__enter__()
        self._bar.update(completed=step)
        self._told = ""
        self._first, self._began, self._line_at = step, monotonic(), -LINE_SECONDS
        self._tokens_then, self._seconds = tokens, 0.0
        self.resume()

    def resume(self) -> None:
        """Training goes on after something else, whose time counts for no rate."""
        self._mark = monotonic()
        self._bar.update(description=self.stage)

    def judging(self) -> None:
        """Held-out rows are read now."""
        self._bar.update(description=f"{self.stage}: held-out rows")

    def on_step(self, tokens: int) -> None:
        """One step more, with so many tokens."""
        now = monotonic()
        self._seconds, self._mark = self._seconds + now - self._mark, now
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        self._series("steps").inc()
        self._series("tokens").inc(tokens)
        self._series("eta").set(self._left())
        self._show()

    def on_loss(self, loss: float, learning_rate: float) -> None:
        """The loss of the last steps."""
        rate = (self.tokens - self._tokens_then) / max(self._seconds, 1e-9)
        self._tokens_then, self._seconds = self.tokens, 0.0
        for name, value in (("loss", loss), ("learning_rate", learning_rate), ("tokens_per_second", rate)):
            self._series(name).set(value)
            self._curves.add_scalar(f"train/{name}", value, self.step)
        self._told = f"loss {loss:.4f}" + (f", {rate:,.0f} tok/s" if rate else "")
        self._show()
        if not self._bar.shown and monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = monotonic()
            left = f"at most {clock(self._left())} left"
            facts = {
                "event": "progress", "run": self._metrics.run, "stage": self.stage, "step": self.step,
                "steps": self.steps, "loss": loss, "tokens_per_second": round(rate, 1),
                "eta_seconds": round(self._left(), 1),
            }  # fmt: skip
            _log.info(
                "%s: step %d of %d: %s, %s", self.stage, self.step, self.steps, self._told, left,
                extra={"facts": facts},
            )  # fmt: skip

    def on_held_out(self, loss: float) -> None:
        """The loss of an evaluation."""
        self._series("held_out_loss").set(loss)
        self._curves.add_scalar("eval/loss", loss, self.step)
        self._curves.flush()  # a checkpoint follows: what was before it is told no more

    def _series(self, name: str) -> Any:
        """Of this stage; one appears when it has its first value."""
        return getattr(self._metrics, name).labels(self._metrics.run, self.stage)

    def _left(self) -> float:
        return (monotonic() - self._began) / (self.step - self._first) * (self.steps - self.step)

    def _show(self) -> None:
        if self._bar.shown:
            self._bar.update(completed=self.step, note=f"{self._told}, {clock(self._left())} left".lstrip(", "))

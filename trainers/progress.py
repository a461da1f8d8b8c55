"""Progress of one stage of a training: counted once, shown in the terminal or the log, Prometheus and TensorBoard."""

import logging
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from schemas.text import clock
from services.observability.series import TrainMetrics
from services.observability.terminal import LINE_SECONDS, Bar

_log = logging.getLogger("kindling")

LOGGING_STEPS = 10
"""number of optimizer steps from one reported loss to the next"""
# TensorBoard shows what is on disk, so a curve is late by this much at most.
_FLUSH_SECONDS = 10


class StageProgress:
    """Counts the steps of a stage. A context manager: `begin` opens its displays, and the end of the block closes them.

    Args:
        stage: name of the stage, such as `0-clm`.
        metrics: Prometheus series of the job.
        curves: folder for the stage's TensorBoard events.

    Attributes:
        stage: name of the stage.
        step: number of optimizer steps done.
        steps: number of optimizer steps of the whole stage; 0 before `begin`.
        tokens: number of tokens trained on since the stage began, without padding.
        evaluation_seconds: time of one evaluation, if it was measured before the training; 0 where it is not known.
    """

    def __init__(self, stage: str, metrics: TrainMetrics, curves: Path) -> None:
        self.stage, self._metrics, self._folder = stage, metrics, curves
        self.step = self.steps = self.tokens = 0
        self.evaluation_seconds = 0.0

    def __enter__(self) -> "StageProgress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.steps:
            self._bar.__exit__(*exc)
            self._curves.close()

    def begin(self, steps: int, step: int = 0, tokens: int = 0, eval_steps: int = 0) -> None:
        """Opens the displays where training begins or is resumed.

        Args:
            steps: number of optimizer steps of the whole stage.
            step: step of the checkpoint that training continues from; 0 for a new stage.
            tokens: number of tokens trained on up to that checkpoint.
            eval_steps: number of steps from one evaluation to the next; the last step is evaluated too.
        """
        self.steps, self.step, self.tokens = steps, step, tokens
        self._series("planned_steps").set(steps)
        self._series("steps").inc(step)
        self._series("tokens").inc(tokens)
        # TensorBoard reads the files of a folder in the order of the seconds in their names, so two starts within one
        # second would be read in a wrong order.
        written = max((path.stat().st_mtime for path in self._folder.glob("events.*")), default=0)
        sleep(max(0, int(written) + 1 - time()))
        # Steps after the last checkpoint of a killed start are done and reported again: TensorBoard is to forget them.
        self._curves = SummaryWriter(str(self._folder), purge_step=step + 1, flush_secs=_FLUSH_SECONDS)
        self._bar = Bar(self.stage, steps).__enter__()
        self._bar.update(completed=step)
        self._loss_note = ""
        self._first_step, self._began_at, self._logged_at = step, monotonic(), -LINE_SECONDS
        self._reported_tokens, self._training_seconds, self._all_training_seconds = tokens, 0.0, 0.0
        self._evaluations = 0
        self._planned_evaluations = -(-steps // eval_steps) - step // eval_steps if eval_steps else 0
        self.resume()

    def resume(self) -> None:
        """Restarts the clock after an evaluation or a checkpoint, whose time counts for no rate."""
        self._resumed_at = monotonic()
        self._bar.update(description=self.stage)

    def show_evaluation(self) -> None:
        """Shows that held-out rows are being read."""
        self._bar.update(description=f"{self.stage}: held-out rows")

    def on_step(self, tokens: int) -> None:
        """Counts one optimizer step and its tokens."""
        now = monotonic()
        seconds, self._resumed_at = now - self._resumed_at, now
        self._training_seconds += seconds
        self._all_training_seconds += seconds
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        self._series("steps").inc()
        self._series("tokens").inc(tokens)
        self._series("eta").set(self._seconds_left())
        self._show()

    def on_loss(self, loss: float, learning_rate: float) -> None:
        """Reports the mean loss of the last steps and the learning rate; without a terminal, logs a line at times."""
        rate = (self.tokens - self._reported_tokens) / max(self._training_seconds, 1e-9)
        self._reported_tokens, self._training_seconds = self.tokens, 0.0
        for name, value in (("loss", loss), ("learning_rate", learning_rate), ("tokens_per_second", rate)):
            self._series(name).set(value)
            self._curves.add_scalar(f"train/{name}", value, self.step)
        self._loss_note = f"loss {loss:.4f}" + (f", {rate:,.0f} tok/s" if rate else "")
        self._show()
        if not self._bar.shown and monotonic() - self._logged_at > LINE_SECONDS:
            self._logged_at = monotonic()
            time_left = f"at most {clock(self._seconds_left())} left"  # early stopping may end the stage sooner
            facts = {
                "event": "progress", "run": self._metrics.run, "stage": self.stage, "step": self.step,
                "steps": self.steps, "loss": loss, "tokens_per_second": round(rate, 1),
                "eta_seconds": round(self._seconds_left(), 1),
            }  # fmt: skip
            _log.info(
                "%s: step %d of %d: %s, %s", self.stage, self.step, self.steps, self._loss_note, time_left,
                extra={"facts": facts},
            )  # fmt: skip

    def on_held_out(self, loss: float) -> None:
        """Reports the loss of an evaluation."""
        self._evaluations += 1
        self._series("held_out_loss").set(loss)
        self._curves.add_scalar("eval/loss", loss, self.step)
        self._curves.flush()  # a checkpoint follows, and steps before it are not reported again

    def _series(self, name: str) -> Any:
        """Returns the Prometheus series of this stage; it appears at the endpoint with its first value."""
        return getattr(self._metrics, name).labels(self._metrics.run, self.stage)

    def _seconds_left(self) -> float:
        """Returns seconds to the end of the last evaluation, at the mean paces of steps and evaluations since `begin`.

        The time of a checkpoint is part of that of its evaluation.
        """
        pauses = monotonic() - self._began_at - self._all_training_seconds
        each = pauses / self._evaluations if self._evaluations else self.evaluation_seconds
        evaluations = max(self._planned_evaluations - self._evaluations, 0)
        pace = self._all_training_seconds / (self.step - self._first_step)
        return pace * (self.steps - self.step) + each * evaluations

    def _show(self) -> None:
        if self._bar.shown:
            self._bar.update(
                completed=self.step, note=f"{self._loss_note}, {clock(self._seconds_left())} left".lstrip(", ")
            )

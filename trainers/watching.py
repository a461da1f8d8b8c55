"""Beside a training: says how far it is, ends it when asked to, and makes its checkpoints durable."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from services.filesystem import sync_folder

_log = logging.getLogger("kindling")

WHOLE = "kindling.whole"


class Stop(TrainerCallback):
    """Ends a training with a checkpoint.

    Attributes:
        stopped: whether it did.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop, self.stopped = should_stop, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_step_end`."""
        if state.global_step < state.max_steps and self._should_stop():
            self.stopped = control.should_save = control.should_training_stop = True


class Whole(TrainerCallback):
    """Makes a checkpoint durable, marks it, and only then removes those that it takes the place of."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_save`."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        sync_files(folder)
        (folder / WHOLE).touch()
        sync_folder(str(folder))
        sync_folder(args.output_dir)
        kept = {f"checkpoint-{step}" for step in (state.global_step, state.best_global_step)}
        for path in folder.parent.glob("checkpoint-*"):
            if path.name not in kept:
                (path / WHOLE).unlink()  # first: what is killed in between leaves no half that counts as whole
                shutil.rmtree(path)


class Lines(TrainerCallback):
    """Says how far it is."""

    def __init__(self) -> None:
        self._started = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_train_begin`."""
        self._started = (monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """See `TrainerCallback.on_log`."""
        stage, step, steps = Path(args.output_dir).name, state.global_step, state.max_steps
        if "eval_loss" in logs:
            _log.info("%s: step %d of %d: loss %.4f on held-out rows", stage, step, steps, logs["eval_loss"])
        elif "loss" in logs:
            started, first = self._started
            left = (monotonic() - started) / max(step - first, 1) * (steps - step) / 60
            _log.info("%s: step %d of %d: loss %.4f, at most %.1f min left", stage, step, steps, logs["loss"], left)


class Bar(ProgressCallback):
    """Trainer's progress bar, without what it prints of each log."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nothing."""


def sync_files(folder: Path) -> None:
    """Makes what is in the files of a folder durable."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def last_whole(folder: Path) -> str | None:
    """The last whole checkpoint; what a killed process left half written is removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / WHOLE).is_file():
            whole.append((int(path.name.partition("-")[2]), str(path)))
        else:
            shutil.rmtree(path)
    return max(whole)[1] if whole else None

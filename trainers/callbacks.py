"""Beside a training: tells its progress, ends it when asked to, and makes its checkpoints durable."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from services.storage.filesystem import sync_files, sync_folder
from trainers.progress import StageProgress

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


class Told(TrainerCallback):
    """Tells the progress of its stage what Trainer does."""

    def __init__(self, progress: StageProgress) -> None:
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_train_begin`."""
        self._progress.begin(state.max_steps, state.global_step, state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_step_end`."""
        self._progress.on_step(state.num_input_tokens_seen - self._progress.tokens)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """See `TrainerCallback.on_log`."""
        if "eval_loss" in logs:
            self._progress.on_held_out(logs["eval_loss"])
            at = (self._progress.stage, state.global_step, state.max_steps, logs["eval_loss"])
            blimp = ", BLiMP {eval_blimp:.3f}, {eval_blimp_most_lost:.3f} lost at most" if "eval_blimp" in logs else ""
            _log.info("%s: step %d of %d: loss %.4f on held-out rows%s", *at, blimp.format(**logs))
        elif "loss" in logs:
            self._progress.on_loss(logs["loss"], logs["learning_rate"])

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_prediction_step`."""
        self._progress.judging()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_evaluate`."""
        self._progress.resume()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback.on_save`."""
        self._progress.resume()


def last_whole(folder: Path) -> str | None:
    """The last whole checkpoint; what a killed process left half written is removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / WHOLE).is_file():
            whole.append((int(path.name.partition("-")[2]), str(path)))
        else:
            shutil.rmtree(path)
    return max(whole)[1] if whole else None

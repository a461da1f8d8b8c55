"""Callbacks of the Trainer: one reports progress, one ends a training early, one makes checkpoints durable.

Invariant: a checkpoint folder with the marker file is complete and on disk, and outlives a power failure; a folder
without it is the rest of a killed process. At each moment after the first checkpoint at least one has the marker.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from services.storage.filesystem import sync_files, sync_folder
from trainers.progress import StageProgress

_log = logging.getLogger("kindling")

DURABLE_MARKER = "kindling.whole"
"""name of the file that marks a complete, durable checkpoint"""


class StopCallback(TrainerCallback):
    """Ends a training with a checkpoint, as soon as `should_stop` returns True after a step.

    Attributes:
        was_stopped: True once this callback has ended the training. The last step of all is not a stop.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop, self.was_stopped = should_stop, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks the Trainer to save a checkpoint and to end, if the training is to stop."""
        if state.global_step < state.max_steps and self._should_stop():
            self.was_stopped = control.should_save = control.should_training_stop = True


class DurableCheckpointCallback(TrainerCallback):
    """Makes each new checkpoint durable, marks it, and only then removes the older ones.

    It keeps the newest checkpoint, to continue from, and the one with the best weights.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Syncs and marks the checkpoint that the Trainer has just written, and removes older ones."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        # The order is the point: content first, then the marker, then the folder's entry, each synced to disk.
        sync_files(folder)
        (folder / DURABLE_MARKER).touch()
        sync_folder(str(folder))
        sync_folder(args.output_dir)
        kept = {f"checkpoint-{step}" for step in (state.global_step, state.best_global_step)}
        for path in folder.parent.glob("checkpoint-*"):
            if path.name not in kept:
                # The marker goes first: a process that is killed during rmtree leaves no marked, incomplete folder.
                (path / DURABLE_MARKER).unlink()
                shutil.rmtree(path)


class ProgressCallback(TrainerCallback):
    """Passes steps, losses and evaluations of the Trainer on to a `StageProgress`."""

    def __init__(self, progress: StageProgress) -> None:
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the progress at the first step, or at the step of the checkpoint."""
        self._progress.begin(state.max_steps, state.global_step, state.num_input_tokens_seen, int(args.eval_steps or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts a step and its tokens."""
        self._progress.on_step(state.num_input_tokens_seen - self._progress.tokens)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Passes on the loss of the last steps, or of an evaluation, and logs the latter."""
        if "eval_loss" in logs:
            self._progress.on_held_out(logs["eval_loss"])
            text = ", minimal pairs {eval_blimp:.3f}, {eval_blimp_most_lost:.3f} lost at most"
            pairs = text.format(**logs) if "eval_blimp" in logs else ""
            _log.info(
                "%s: step %d of %d: loss %.4f on held-out tokens%s", self._progress.stage, state.global_step,
                state.max_steps, logs["eval_loss"], pairs,
            )  # fmt: skip
        elif "loss" in logs:
            self._progress.on_loss(logs["loss"], logs["learning_rate"])

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Shows that held-out rows are being read."""
        self._progress.show_evaluation()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restarts the clock of the training: the time of an evaluation counts for no rate."""
        self._progress.resume()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restarts the clock of the training: the time of a checkpoint counts for no rate."""
        self._progress.resume()


def last_durable_checkpoint(folder: Path) -> str | None:
    """Returns the path of the newest durable checkpoint in a folder, or None; removes incomplete checkpoints."""
    durable = []
    for path in folder.glob("checkpoint-*"):
        if (path / DURABLE_MARKER).is_file():
            durable.append((int(path.name.partition("-")[2]), str(path)))
        else:
            shutil.rmtree(path)
    return max(durable)[1] if durable else None

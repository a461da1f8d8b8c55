"""Trains a causal language model for one stage of a job, with TRL's SFTTrainer. The only file that imports trl.

Invariant: a stage that was killed at any moment, and is started again on the same machine, ends with the same weights
as a stage that was never killed. Three things make this hold: a checkpoint counts only after it is complete and durable
(`trainers.callbacks.DurableCheckpointCallback`); the order of the examples depends on the seed and the epoch alone
(`trainers.length_batches`); and what is measured before the first step is kept in a file.

The examples are token ids already (`trainers.examples`), so TRL's own preparation of the data is switched off.
"""

import copy
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import log_softmax
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from schemas.errors import RunError
from schemas.train import ClmStage, Lora, Optimizer, SftStage
from services.models.diverged import refuse_diverged
from services.models.minimal_pairs import MinimalPair, good_is_likelier
from trainers.callbacks import (
    DURABLE_MARKER,
    DurableCheckpointCallback,
    ProgressCallback,
    StopCallback,
    last_durable_checkpoint,
)
from trainers.completion_loss import (
    fits_on_cpu,
    labelled_logits,
    labelled_losses,
    labelled_positions,
    loss_near_base,
)
from trainers.examples import lengths_of
from trainers.grammar_guard import GUARDED_LOSS_METRIC, GrammarCheck
from trainers.initial_model import Precision
from trainers.length_batches import LengthGroupedSampler
from trainers.memory_errors import translate_memory_errors
from trainers.progress import LOGGING_STEPS, StageProgress

_log = logging.getLogger("kindling")

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class StageOutcome:
    """Figures of a stage that was trained, or was stopped before its end.

    Attributes:
        before, after: loss of each held-out example before the first step and with the weights that were kept: mean
            negative log-likelihood per token, in nats; shape (held-out examples,). `after` is empty where the stage was
            stopped.
        steps: number of optimizer steps taken.
        best_step: optimizer step whose weights were kept.
        held_out_losses: loss on the held-out examples by optimizer step, as Trainer averages it over batches.
        was_stopped: True where `should_stop` ended the stage before its last step.
        blimp: `trainers.grammar_guard.GrammarCheck.report` of the stage; None where no minimal pairs were scored.
    """

    before: np.ndarray
    after: np.ndarray
    steps: int
    best_step: int
    held_out_losses: dict[int, float]
    was_stopped: bool
    blimp: dict[str, Any] | None


def train_language_model(
    stage: ClmStage | SftStage, model: Any, tokenizer: Any, train: Dataset, held_out: Dataset, folder: Path,
    precision: Precision, seed: int, should_stop: Callable[[], bool], progress: StageProgress,
    pairs: Sequence[MinimalPair] = (),
) -> tuple[Any, StageOutcome]:  # fmt: skip
    """Trains a model for one stage, or continues from the last durable checkpoint in `folder`.

    Args:
        stage: section of the job with the optimizer, adapters and weight of the KL term.
        model: causal language model of transformers, with fp32 weights; it is trained in place.
        tokenizer: tokenizer of the model.
        train, held_out: examples as `trainers.examples.read_examples` gives them.
        folder: folder of this stage alone, for its checkpoints.
        precision: precision of the arithmetic; the weights stay in fp32.
        seed: seed of the order of the examples, and of dropout.
        should_stop: called after each step; where it returns True, a checkpoint is written and the training ends.
        progress: display and metrics of the stage.
        pairs: minimal pairs that `stage.blimp` asks for; none where the stage has no such section.

    Returns:
        The model with the weights of its best evaluation, and the figures of the stage. Adapters are merged into it, or
        it is peft's model of the adapters where `stage.lora.merge` is false.

    Raises:
        RunError: the loss is not a finite number (its batch is saved beside the checkpoints), no evaluation kept enough
            grammar, or the checkpoint with the best weights is gone.
        EngineError: there is not enough memory.
    """
    stop = StopCallback(should_stop)
    callbacks = [
        EarlyStoppingCallback(stage.optimizer.patience), stop, ProgressCallback(progress), DurableCheckpointCallback(),
    ]  # fmt: skip
    with translate_memory_errors():
        # With adapters no copy is needed: the model with its adapters switched off is the first one.
        base = copy.deepcopy(model) if stage.kl and not stage.lora else None
        trainer = _Trainer(
            kl=stage.kl, base=base, dump_folder=folder, model=model, processing_class=tokenizer, train_dataset=train,
            eval_dataset=held_out, args=_arguments(stage.optimizer, len(train), folder, precision, seed, bool(pairs)),
            peft_config=_adapters(stage.lora) if stage.lora else None, callbacks=callbacks,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        began_at, is_first_start = monotonic(), not (folder / "before.json").is_file()
        before = _computed_once(folder / "before.json", trainer.losses)
        check = None
        if stage.blimp and pairs:
            correct_before = _computed_once(folder / "blimp.json", lambda: trainer.correct_pairs(pairs))
            check = trainer.grammar_check = GrammarCheck(pairs, stage.blimp.max_drop, correct_before)
            _log.info("minimal pairs %.3f before the first step, of %d", correct_before.mean(), len(pairs))
        if is_first_start:
            progress.evaluation_seconds = monotonic() - began_at
        with progress:
            _run(trainer, last_durable_checkpoint(folder))
        after, blimp = np.zeros(0), None
        if not stop.was_stopped:
            blimp = check.report(trainer.correct_pairs(pairs), trainer.state) if check else None
            after = trainer.losses()
    state = trainer.state
    losses = {entry["step"]: round(entry["eval_loss"], 5) for entry in state.log_history if "eval_loss" in entry}
    trained = trainer.model.merge_and_unload() if stage.lora and stage.lora.merge else trainer.model
    return trained, StageOutcome(
        before, after, state.global_step, state.best_global_step or 0, losses, stop.was_stopped, blimp
    )


def _run(trainer: "_Trainer", checkpoint: str | None) -> None:
    """Trains from a checkpoint on, or from the start.

    A process may have been killed after its last step, before the stage's model was saved. `Trainer.train` would take
    one more step there; so the state and the best weights are loaded, and nothing is trained.
    """
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if state.global_step >= trainer.args.max_steps or _is_out_of_patience(state):
            trainer.state = state
            if state.best_global_step:
                trainer._load_best_model()
            return
    trainer.train(resume_from_checkpoint=checkpoint)


def _is_out_of_patience(state: TrainerState) -> bool:
    """Returns whether early stopping ended the training at this state."""
    stopping = EarlyStoppingCallback.from_state(state.stateful_callbacks[EarlyStoppingCallback.__name__])
    return stopping.early_stopping_patience_counter >= stopping.early_stopping_patience


def steps_of(optimizer: Optimizer, examples: int) -> int:
    """Returns the number of optimizer steps of a whole stage."""
    batches = math.ceil(examples / optimizer.batch_size)
    steps = max(round(math.ceil(batches / optimizer.accumulation) * optimizer.epochs), 1)
    return min(steps, optimizer.max_steps or steps)


def _arguments(
    optimizer: Optimizer, examples: int, folder: Path, precision: Precision, seed: int, blimp: bool
) -> SFTConfig:
    steps = steps_of(optimizer, examples)
    # A stage with fewer steps than `eval_steps` is evaluated too: once, at its end.
    eval_steps = min(optimizer.eval_steps, steps)
    return SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=optimizer.batch_size,
        per_device_eval_batch_size=optimizer.batch_size, gradient_accumulation_steps=optimizer.accumulation,
        learning_rate=optimizer.learning_rate, lr_scheduler_type=_SCHEDULES[optimizer.schedule],
        warmup_steps=optimizer.warmup_steps, weight_decay=optimizer.weight_decay, optim="adamw_torch_fused",
        gradient_checkpointing=optimizer.gradient_checkpointing, bf16=precision == "bf16", fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        # load_best_model_at_end demands that checkpoints are written where evaluations are made.
        eval_strategy="steps", eval_steps=eval_steps, save_strategy="steps", save_steps=eval_steps,
        load_best_model_at_end=True, metric_for_best_model=GUARDED_LOSS_METRIC if blimp else "eval_loss",
        greater_is_better=False,
        # Without it a resumed training would count its patience from 0 again.
        restore_callback_states_from_checkpoint=True, prediction_loss_only=True, logging_steps=LOGGING_STEPS,
        logging_first_step=True, seed=seed, data_seed=seed, report_to="none", log_level="error", disable_tqdm=True,
        include_num_input_tokens_seen="non_padding",
        # The examples have token ids and their final length already.
        dataloader_pin_memory=torch.cuda.is_available(), max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip


def _adapters(lora: Lora) -> Any:
    from peft import LoraConfig  # the import takes a second, and most jobs have no adapters

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip


class _Trainer(SFTTrainer):
    """SFTTrainer with our loss, our order of examples, and the grammar check at each evaluation.

    Args:
        kl: weight of the KL divergence from the stage's first model; 0 leaves it out.
        base: copy of the first model for that divergence; None where adapters are trained, or `kl` is 0.
        dump_folder: folder for the batch whose loss is not a finite number.
        arguments: arguments of SFTTrainer.
    """

    grammar_check: GrammarCheck | None = None

    def __init__(self, kl: float, base: Any, dump_folder: Path, **arguments: Any) -> None:
        self._kl, self._base, self._dump_folder = kl, base, dump_folder
        super().__init__(**arguments)
        if base is not None:
            base.eval().requires_grad_(False).to(self.args.device)

    def _load_best_model(self) -> None:
        """Loads the weights of the best evaluation from this stage's folder.

        Trainer remembers an absolute path, which is wrong where the folder was moved since: so the path is set anew.
        """
        best = Path(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
        if not (best / DURABLE_MARKER).is_file():
            cause = "the checkpoint with the best weights is gone"
            raise RunError(str(best), None, cause, "remove the folder `work` beside it, and train again")
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Writes no card: the run's own card is written at its end."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        return LengthGroupedSampler(
            lengths_of(train_dataset or self.train_dataset), self.args.train_batch_size, self.args.seed,
            lambda: int(self.state.epoch or 0),
        )  # fmt: skip

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Returns the loss of a batch: mean over its labelled tokens, with the KL term where the stage has one.

        Raises:
            RunError: the loss is not a finite number.
        """
        tokens = options.get("num_items_in_batch")  # labelled tokens of all batches of one optimizer step
        if self._kl and model.training:
            loss = self._loss_near_base(model, inputs, tokens)
        elif fits_on_cpu(model, inputs) and not self.aux_loss_enabled:
            losses = labelled_losses(model, inputs)
            loss = losses.sum() / max(len(losses) if tokens is None else tokens, 1)
        else:
            loss = super().compute_loss(model, inputs, *arguments, **options)
        if not torch.isfinite(loss):
            self._refuse_batch(inputs)
        return loss

    def _loss_near_base(self, model: Any, inputs: dict[str, Any], tokens: Any) -> torch.Tensor:
        """Returns the loss with the KL term, as a mean over the labelled tokens."""
        is_labelled, labels = labelled_positions(inputs)
        logits = labelled_logits(model, inputs, is_labelled)
        with torch.no_grad():
            if self._base is not None:
                base = labelled_logits(self._base, inputs, is_labelled)
            else:
                with self.accelerator.unwrap_model(model).disable_adapter():
                    base = labelled_logits(model.eval(), inputs, is_labelled)  # without dropout
                model.train()
            base = log_softmax(base, dim=-1)
        loss = loss_near_base(logits, base, labels, self._kl)
        return loss / max(len(labels) if tokens is None else tokens, 1)

    def _refuse_batch(self, inputs: dict[str, Any]) -> NoReturn:
        """Saves a batch whose loss is not a finite number, and ends the training."""
        path = self._dump_folder / "not-a-number.json"
        batch = [
            {"input_ids": ids, "labels": labels, "text": self.processing_class.decode(ids)}
            for ids, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True)
        ]
        path.write_text(json.dumps({"step": self.state.global_step, "batch": batch}, ensure_ascii=False))
        step = self.state.global_step
        cause = f"the model has diverged: its loss is not a finite number at step {step}; the batch is in {path}"
        remedy = "lower optimizer.learning_rate, or say precision: fp32 (bf16 in place of fp16); look at the batch"
        raise RunError("loss", None, cause, remedy)

    def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
        """Evaluates the held-out examples as Trainer does, and adds the metrics of the grammar check."""
        output = super().evaluation_loop(*arguments, **options)
        if self.grammar_check is not None:
            correct = self.correct_pairs(self.grammar_check.pairs)
            output.metrics.update(self.grammar_check.metrics(correct, output.metrics["eval_loss"]))
        return output

    def correct_pairs(self, pairs: Sequence[MinimalPair]) -> np.ndarray:
        """Returns whether the model finds the good sentence of each pair likelier, as booleans of shape (pairs,).

        The arithmetic has the precision of the training.
        """
        self.model.eval().to(self.args.device)
        with self.compute_loss_context_manager():
            return good_is_likelier(self.model, self.processing_class, pairs)

    @torch.no_grad()
    def losses(self) -> np.ndarray:
        """Returns the mean negative log-likelihood per labelled token of each held-out example, in nats.

        Raises:
            EngineError: the model has diverged.
        """
        _log.info("reading %d held-out examples", len(self.eval_dataset))
        self.model.eval().to(self.args.device)
        losses = []
        for batch in self.get_eval_dataloader():
            # Trainer wraps the model for mixed precision in train() only, and this runs before it too.
            with self.accelerator.autocast():
                out = self.model(**self._prepare_inputs(batch), use_cache=False, fused_lm_head=True)
            losses.append((-out.log_probs.sum(1) / out.label_mask.sum(1).clamp(min=1)).float().cpu())
        values = torch.cat(losses).numpy()
        refuse_diverged(values, self.processing_class.name_or_path, "losses of held-out examples")
        return values


def _computed_once(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns figures of the stage's first model: computed at its first start, read from a file at later starts."""
    if not path.is_file():
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(compute().tolist()))
        os.replace(scratch, path)
    return np.array(json.loads(path.read_text()))

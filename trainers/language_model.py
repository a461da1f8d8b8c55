"""Trains a causal language model for one stage, on TRL's SFTTrainer: the one file that touches trl.

The examples are token ids already, so TRL prepares nothing. Checkpoints are written at each evaluation; one counts once
it is whole and durable, so a process may be killed at any moment.
"""

import contextlib
import copy
import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from schemas.errors import EngineError, RunError
from schemas.train import ClmStage, Lora, Optimizer, SftStage
from services.models.minimal_pairs import MinimalPair, good_is_likelier
from trainers.callbacks import WHOLE, Stop, Told, Whole, last_whole
from trainers.completion_loss import fits, labelled_logits, labelled_losses, labels_of
from trainers.examples import lengths_of
from trainers.grammar_guard import KEPT_LOSS, Grammar
from trainers.initial_model import Precision
from trainers.length_batches import ByLength
from trainers.progress import LOG_STEPS, StageProgress

_log = logging.getLogger("kindling")

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Outcome:
    """What a stage came to.

    Attributes:
        before, after: mean negative log-likelihood a token of each held-out example, in nats.
        steps: of the optimizer.
        best_step: the step whose weights were kept.
        dev_losses: the loss on the held-out examples as Trainer averages it over batches, by step.
        stopped: whether it was told to stop before its end.
        blimp: what became of its grammar, where that was looked at; see `trainers.grammar_guard.Grammar.report`.
    """

    before: np.ndarray
    after: np.ndarray
    steps: int
    best_step: int
    dev_losses: dict[int, float]
    stopped: bool
    blimp: dict[str, Any] | None


def train_language_model(
    stage: ClmStage | SftStage, model: Any, tokenizer: Any, train: Dataset, dev: Dataset, folder: Path,
    precision: Precision, seed: int, should_stop: Callable[[], bool], progress: StageProgress,
    pairs: Sequence[MinimalPair] = (),
) -> tuple[Any, Outcome]:  # fmt: skip
    """Trains for one stage, or goes on where the last whole checkpoint in `folder` was written.

    Args:
        folder: the stage's own, for its checkpoints.
        should_stop: asked after each step; where it says so, a checkpoint is written and the training ends.
        progress: of the stage, to be told.
        pairs: those of `stage.blimp`.

    Returns:
        the model at its best evaluation, adapters merged into it, and what came of it.

    Raises:
        RunError: the loss is no number any more, and the batch is saved; or all evaluations lost grammar.
        EngineError: there is not enough memory.
    """
    stop = Stop(should_stop)
    with _told():
        trainer = _Trainer(
            kl=stage.kl, base=copy.deepcopy(model) if stage.kl and not stage.lora else None, nan_folder=folder,
            model=model, processing_class=tokenizer, train_dataset=train, eval_dataset=dev,
            args=_arguments(stage.optimizer, len(train), folder, precision, seed, bool(pairs)),
            peft_config=_adapters(stage.lora) if stage.lora else None,
            callbacks=[EarlyStoppingCallback(stage.optimizer.patience), stop, Told(progress), Whole()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        before = _kept(folder / "before.json", trainer.losses)
        if pairs:
            was_right = _kept(folder / "blimp.json", lambda: trainer.right(pairs))
            trainer.grammar = Grammar(pairs, stage.blimp.max_drop, was_right)
            _log.info("BLiMP %.3f before the first step, on %d pairs", was_right.mean(), len(pairs))
        with progress:
            _run(trainer, last_whole(folder))
        after, blimp = np.zeros(0), None
        if not stop.stopped:
            blimp = trainer.grammar.report(trainer.right(pairs), trainer.state) if pairs else None
            after = trainer.losses()
    state = trainer.state
    losses = {entry["step"]: round(entry["eval_loss"], 5) for entry in state.log_history if "eval_loss" in entry}
    trained = trainer.model.merge_and_unload() if stage.lora else trainer.model
    return trained, Outcome(before, after, state.global_step, state.best_global_step or 0, losses, stop.stopped, blimp)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tells of memory and disks that are full, which torch and safetensors say in their own ways."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            cause = "there is not enough memory for this model and batch"
            remedy = (
                "lower optimizer.batch_size (and raise accumulation by as much), lower max_length, or set "
                "optimizer.gradient_checkpointing: true"
            )
            raise EngineError("stages", None, cause, remedy) from None
        if "No space left" in str(error) or "unexpected pos" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise


def _run(trainer: "_Trainer", checkpoint: str | None) -> None:
    """Trains from a checkpoint on, or from the start."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if state.global_step >= trainer.args.max_steps or _out_of_patience(state):
            trainer.state = state  # killed behind its last step; train() would take one more
            if state.best_global_step:
                trainer._load_best_model()
            return
    trainer.train(resume_from_checkpoint=checkpoint)


def _out_of_patience(state: TrainerState) -> bool:
    stopping = EarlyStoppingCallback.from_state(state.stateful_callbacks[EarlyStoppingCallback.__name__])
    return stopping.early_stopping_patience_counter >= stopping.early_stopping_patience


def steps_of(optimizer: Optimizer, examples: int) -> int:
    """Optimizer steps of a whole stage."""
    batches = math.ceil(examples / optimizer.batch_size)
    steps = max(round(math.ceil(batches / optimizer.accumulation) * optimizer.epochs), 1)
    return min(steps, optimizer.max_steps or steps)


def _arguments(
    optimizer: Optimizer, examples: int, folder: Path, precision: Precision, seed: int, blimp: bool
) -> SFTConfig:
    steps = steps_of(optimizer, examples)
    each = min(optimizer.eval_steps, steps)  # a short stage has an evaluation too, at its end
    return SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=optimizer.batch_size,
        per_device_eval_batch_size=optimizer.batch_size, gradient_accumulation_steps=optimizer.accumulation,
        learning_rate=optimizer.learning_rate, lr_scheduler_type=_SCHEDULES[optimizer.schedule],
        warmup_steps=optimizer.warmup_steps, weight_decay=optimizer.weight_decay, optim="adamw_torch_fused",
        gradient_checkpointing=optimizer.gradient_checkpointing, bf16=precision == "bf16", fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps", eval_steps=each, save_strategy="steps", save_steps=each,
        load_best_model_at_end=True, metric_for_best_model=KEPT_LOSS if blimp else "eval_loss", greater_is_better=False,
        restore_callback_states_from_checkpoint=True, prediction_loss_only=True, logging_steps=LOG_STEPS,
        logging_first_step=True, seed=seed, data_seed=seed, report_to="none", log_level="error", disable_tqdm=True,
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=torch.cuda.is_available(), max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip


def _adapters(lora: Lora) -> Any:
    from peft import LoraConfig  # takes a second, and most jobs need none of it

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip


class _Trainer(SFTTrainer):
    grammar: Grammar | None = None

    def __init__(self, kl: float, base: Any, nan_folder: Path, **arguments: Any) -> None:
        self._kl, self._base, self._nan_folder = kl, base, nan_folder
        super().__init__(**arguments)
        if base is not None:
            base.eval().requires_grad_(False).to(self.args.device)

    def _load_best_model(self) -> None:
        """Trainer's, though the folder may have been moved since it wrote where that lies."""
        best = Path(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
        if not (best / WHOLE).is_file():
            cause, remedy = (
                "it held the best weights, and is gone",
                "remove the folder `work` beside it, and train again",
            )
            raise RunError(str(best), None, cause, remedy)
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """None: the run has one of its own."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return ByLength(
            lengths_of(train_dataset or self.train_dataset), self.args.train_batch_size, self.args.seed,
            lambda: int(self.state.epoch or 0),
        )  # fmt: skip

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """The loss of a batch; with the divergence from the base model where that is asked for."""
        tokens = options.get("num_items_in_batch")
        if self._kl and model.training:
            loss = self._loss_near_base(model, inputs, tokens)
        elif fits(model, inputs) and not self.aux_loss_enabled:
            losses = labelled_losses(model, inputs)
            loss = losses.sum() / max(len(losses) if tokens is None else tokens, 1)
        else:
            loss = super().compute_loss(model, inputs, *arguments, **options)
        if not torch.isfinite(loss):
            self._refuse(inputs)
        return loss

    def _loss_near_base(self, model: Any, inputs: dict[str, Any], tokens: Any) -> torch.Tensor:
        """Negative log-likelihood + kl x KL(base || model), both a token that the loss is of."""
        counted, labels = labels_of(inputs)
        logits = labelled_logits(model, inputs, counted)
        with torch.no_grad():
            if self._base is None:
                with self.accelerator.unwrap_model(model).disable_adapter():
                    base = labelled_logits(model.eval(), inputs, counted)  # without dropout
                model.train()
            else:
                base = labelled_logits(self._base, inputs, counted)
            base = log_softmax(base, dim=-1)
        likelihood = cross_entropy(logits, labels, reduction="sum")
        divergence = kl_div(log_softmax(logits, dim=-1), base, log_target=True, reduction="sum")
        return (likelihood + self._kl * divergence) / max(len(labels) if tokens is None else tokens, 1)

    def _refuse(self, inputs: dict[str, Any]) -> None:
        path = self._nan_folder / "not-a-number.json"
        batch = [
            {"input_ids": ids, "labels": labels, "text": self.processing_class.decode(ids)}
            for ids, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True)
        ]
        path.write_text(json.dumps({"step": self.state.global_step, "batch": batch}, ensure_ascii=False))
        cause = f"it is no finite number at step {self.state.global_step}; the batch is in {path}"
        remedy = "lower optimizer.learning_rate, or say precision: fp32 (bf16 in place of fp16); look at the batch"
        raise RunError("loss", None, cause, remedy)

    def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's, with what its grammar allows."""
        found = super().evaluation_loop(*arguments, **options)
        if self.grammar is not None:
            found.metrics.update(self.grammar.metrics(self.right(self.grammar.pairs), found.metrics["eval_loss"]))
        return found

    def right(self, pairs: Sequence[MinimalPair]) -> np.ndarray:
        """Whether the model finds the good sentence of each pair likelier, in the precision of training."""
        self.model.eval().to(self.args.device)
        with self.compute_loss_context_manager():
            return good_is_likelier(self.model, self.processing_class, pairs)

    @torch.no_grad()
    def losses(self) -> np.ndarray:
        """Mean negative log-likelihood a token of each held-out example."""
        _log.info("reading %d held-out examples", len(self.eval_dataset))
        self.model.eval().to(self.args.device)
        found = []
        for batch in self.get_eval_dataloader():
            with self.accelerator.autocast():  # before the training too, which prepares the model for it
                out = self.model(**self._prepare_inputs(batch), use_cache=False, fused_lm_head=True)
            found.append((-out.log_probs.sum(1) / out.label_mask.sum(1).clamp(min=1)).float().cpu())
        return torch.cat(found).numpy()


def _kept(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """What was found before the first step: computed at the first start, read at a later one."""
    if not path.is_file():
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(compute().tolist()))
        os.replace(scratch, path)
    return np.array(json.loads(path.read_text()))

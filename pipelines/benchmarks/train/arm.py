"""One run of one arm of `bench train`, in a process of its own: `python -m pipelines.benchmarks.train.arm SPEC.json`.

SPEC.json has the fields of `Spec`. The last line of standard output is one JSON object: the real tokens (all but
padding), the seconds from the beginning of the first optimizer step to the end of the last one, and the loss of
held-out rows, computed in bf16 and in fp32.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import RandomSampler
from transformers import AutoModelForCausalLM, TrainerCallback

from schemas.train import Optimizer, SftStage, TrainModel
from services.models.embedded import embedded_checkpoint
from services.observability.series import TrainMetrics
from trainers import language_model
from trainers.examples import SPLITS, ExampleEncoder, lengths_of, read_examples, write_examples
from trainers.initial_model import load_model, load_tokenizer, resolve_precision
from trainers.progress import StageProgress
from trainers.rows import TrainingRow

TRL, TRL_CHECKPOINTING, KINDLING, BASE = "trl", "trl, gradient checkpointing", "kindling", "before training"

_MAX_TOKENS = 1024  # of an example: TRL's default


@dataclass(frozen=True)
class Spec:
    """Settings of one run.

    Attributes:
        rows: prompt, completion, and whether the row is held out.
        measure_loss: whether the loss of the held-out rows is computed too.
    """

    arm: str
    rows: list[tuple[str, str, bool]]
    batch_size: int
    accumulation: int
    learning_rate: float
    measure_loss: bool


class _Clock(TrainerCallback):
    """Measures from the beginning of the first optimizer step to the end of the last one."""

    def __init__(self) -> None:
        self.began, self.ended = 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.began or time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps and torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU runs behind the program: its last steps may not be done yet
        self.ended = time.monotonic()


def _patch(name: str, value: Any) -> None:
    """Replaces a name of `trainers.language_model` in this process.

    Raises:
        AttributeError: there is no such name; without this check nothing would be switched off.
    """
    getattr(language_model, name)
    setattr(language_model, name, value)


def _use_random_order() -> None:
    _patch("LengthGroupedSampler", lambda lengths, *_: RandomSampler(range(len(lengths))))


def _use_head_of_trl() -> None:
    _patch("fits_on_cpu", lambda *_: False)


# What makes Kindling's training faster; each is switched off alone.
WITHOUT: dict[str, Callable[[], None]] = {
    "bf16": lambda: None,  # an argument of the training, see `_kindling`
    "order": _use_random_order,
    "head": _use_head_of_trl,
}


def run(spec: Spec, scratch: Path) -> dict[str, Any]:
    """Trains one arm and measures it.

    Returns:
        The real tokens, the seconds, and the loss of held-out rows by the precision in which it is computed.
    """
    path = str(embedded_checkpoint())
    tokenizer = load_tokenizer(path, TrainModel(id="embedded"))
    encoder = ExampleEncoder(tokenizer, _MAX_TOKENS, "truncate")
    rows = (TrainingRow(text, prompt, is_held_out=is_held_out) for prompt, text, is_held_out in spec.rows)
    write_examples(rows, encoder, scratch)
    train, held_out = (read_examples(scratch / f"{name}.arrow") for name in SPLITS)
    clock = _Clock()
    torch.manual_seed(0)
    if spec.arm == BASE:
        model, tokens = load_model(path, TrainModel(id="embedded"), tokenizer), 0
    elif spec.arm.startswith(TRL):
        model, tokens = _trl(spec, path, clock, scratch)
    else:
        model = _kindling(spec, path, tokenizer, train, held_out, clock, scratch)
        tokens = int(lengths_of(train).sum())
    precisions = ("bf16", "fp32") if spec.measure_loss else ()
    losses = {name: _held_out_loss(path, model, held_out, name == "bf16") for name in precisions}
    return {"tokens": tokens, "seconds": clock.ended - clock.began, "dev_loss": losses}


def _trl(spec: Spec, path: str, clock: _Clock, scratch: Path) -> tuple[Any, int]:
    """Trains with SFTTrainer as its documentation shows it; only what the arms must have in common is set.

    Returns:
        The model, and the real tokens that it was trained on.
    """
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": text}],
        }
        for prompt, text, is_held_out in spec.rows
        if not is_held_out
    ]
    trainer = SFTTrainer(
        model=path,
        args=SFTConfig(
            output_dir=str(scratch / "trl"), per_device_train_batch_size=spec.batch_size,
            gradient_accumulation_steps=spec.accumulation, learning_rate=spec.learning_rate,
            lr_scheduler_type="constant", num_train_epochs=1, gradient_checkpointing=spec.arm == TRL_CHECKPOINTING,
            use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    return trainer.model, sum(map(len, trainer.train_dataset["input_ids"]))


def _kindling(
    spec: Spec, path: str, tokenizer: Any, train: Dataset, held_out: Dataset, clock: _Clock, scratch: Path
) -> Any:
    """Trains with Kindling's trainer; returns the model."""
    without = spec.arm.removeprefix(f"{KINDLING} without ")
    WITHOUT.get(without, lambda: None)()
    _patch("ProgressCallback", lambda progress: clock)  # the clock instead of the displays
    optimizer = Optimizer(
        batch_size=spec.batch_size, accumulation=spec.accumulation, learning_rate=spec.learning_rate,
        schedule="constant", epochs=1,
    )  # fmt: skip
    stage = SftStage(kind="sft", parts={"rows": {"input": {"path": "rows.jsonl"}}}, optimizer=optimizer)
    model = load_model(path, TrainModel(id="embedded"), tokenizer)
    precision = resolve_precision("fp32" if without == "bf16" else "bf16")  # bf16 is TRL's default, on a CPU too
    progress = StageProgress("bench", TrainMetrics("bench"), scratch)
    # Two examples to evaluate: only the training is measured here, and the loss of all arms is computed in one way.
    trained, _ = language_model.train_language_model(
        stage, model, tokenizer, train, held_out.select(range(2)), scratch, precision, 0, lambda: False, progress
    )
    return trained


@torch.no_grad()
def _held_out_loss(path: str, trained: Any, held_out: Dataset, bf16: bool) -> float:
    """Computes the mean negative log-likelihood of a completion's token, with fp32 weights, one example at a time."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.load_state_dict(trained.state_dict())
    loss, tokens = 0.0, 0
    for example in held_out:
        ids, labels = (torch.tensor(example[name])[None] for name in ("input_ids", "labels"))
        counted = int((labels[:, 1:] >= 0).sum())
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            loss += float(model(input_ids=ids, labels=labels).loss) * counted
        tokens += counted
    return loss / tokens


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder:
        print(json.dumps(run(Spec(**json.loads(Path(sys.argv[1]).read_text())), Path(folder))), flush=True)

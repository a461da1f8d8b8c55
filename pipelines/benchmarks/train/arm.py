"""One run of one arm of `bench train`, in a process of its own: `python -m pipelines.benchmarks.train.arm SPEC`.

SPEC is a JSON file with the fields of `Spec`. The last line of standard output is one JSON object: real tokens, which
is all but padding; seconds from the first optimizer step's beginning to the last one's end; the loss of held-out rows,
computed in bf16 and in fp32.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import RandomSampler
from transformers import AutoModelForCausalLM, TrainerCallback

from schemas.train import Optimizer, SftStage, TrainModel
from services.models.embedded import embedded_checkpoint
from trainers import language_model
from trainers.examples import SPLITS, ExampleEncoder, TrainingRow, lengths_of, read_examples, write_examples
from trainers.initial_model import load_model, load_tokenizer, resolve_precision

TRL, TRL_CHECKPOINTING, KINDLING, BASE = "trl", "trl, gradient checkpointing", "kindling", "before training"

_LENGTH = 1024  # tokens of an example: TRL's default


@dataclass(frozen=True)
class Spec:
    """What to run. `rows` have prompt, completion and whether they are held out."""

    arm: str
    rows: list[tuple[str, str, bool]]
    batch_size: int
    accumulation: int
    learning_rate: float
    judge: bool


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.began, self.ended = 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.began or time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps and torch.cuda.is_available():
            torch.cuda.synchronize()  # steps are handed to a GPU, which may not have done the last ones
        self.ended = time.monotonic()


def _batches_at_random() -> None:
    language_model.LengthGroupedSampler = lambda lengths, *_: RandomSampler(range(len(lengths)))


def _head_of_trl() -> None:
    language_model.fits_on_cpu = lambda *_: False


# Of what makes Kindling's training faster, each switched off alone.
WITHOUT: dict[str, Callable[[], None]] = {
    "bf16": lambda: None,  # it is an argument
    "order": _batches_at_random,
    "head": _head_of_trl,
}


def run(spec: Spec, scratch: Path) -> dict[str, Any]:
    """Trains, and measures it."""
    path = str(embedded_checkpoint())
    tokenizer = load_tokenizer(path, TrainModel(id="embedded"))
    encoder = ExampleEncoder(tokenizer, _LENGTH, "truncate")
    write_examples((TrainingRow(text, prompt, is_held_out=dev) for prompt, text, dev in spec.rows), encoder, scratch)
    train, dev = (read_examples(scratch / f"{name}.arrow") for name in SPLITS)
    clock = _Clock()
    torch.manual_seed(0)
    if spec.arm == BASE:
        model, tokens = load_model(path, TrainModel(id="embedded"), tokenizer), 0
    elif spec.arm.startswith(TRL):
        model, tokens = _trl(spec, path, clock, scratch)
    else:
        model, tokens = _kindling(spec, path, tokenizer, train, dev, clock, scratch), int(lengths_of(train).sum())
    losses = {name: _judged(path, model, dev, name == "bf16") for name in (("bf16", "fp32") if spec.judge else ())}
    return {"tokens": tokens, "seconds": clock.ended - clock.began, "dev_loss": losses}


def _trl(spec: Spec, path: str, clock: _Clock, scratch: Path) -> tuple[Any, int]:
    """SFTTrainer as its documentation shows it; all that is set is what the arms must have in common."""
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": text}],
        }
        for prompt, text, dev in spec.rows
        if not dev
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


def _kindling(spec: Spec, path: str, tokenizer: Any, train: Dataset, dev: Dataset, clock: _Clock, scratch: Path) -> Any:
    without = spec.arm.removeprefix(f"{KINDLING} without ")
    WITHOUT.get(without, lambda: None)()
    language_model.ProgressCallback = lambda progress: clock  # in the place of what tells how far it is
    optimizer = Optimizer(
        batch_size=spec.batch_size, accumulation=spec.accumulation, learning_rate=spec.learning_rate,
        schedule="constant", epochs=1,
    )  # fmt: skip
    stage = SftStage(kind="sft", parts={"rows": {"input": {"path": "rows.jsonl"}}}, optimizer=optimizer)
    model = load_model(path, TrainModel(id="embedded"), tokenizer)
    precision = resolve_precision("fp32" if without == "bf16" else "bf16")  # TRL's default, on a CPU too
    # Two examples to evaluate: what training itself takes is measured, and the loss is judged for all arms alike.
    trained, _ = language_model.train_language_model(
        stage, model, tokenizer, train, dev.select(range(2)), scratch, precision, 0, lambda: False, nullcontext()
    )
    return trained


@torch.no_grad()
def _judged(path: str, trained: Any, dev: Dataset, bf16: bool) -> float:
    """Mean negative log-likelihood a completion's token, of fp32 weights, one example at a time."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.load_state_dict(trained.state_dict())
    loss, tokens = 0.0, 0
    for example in dev:
        ids, labels = (torch.tensor(example[name])[None] for name in ("input_ids", "labels"))
        counted = int((labels[:, 1:] >= 0).sum())
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            loss += float(model(input_ids=ids, labels=labels).loss) * counted
        tokens += counted
    return loss / tokens


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as folder:
        print(json.dumps(run(Spec(**json.loads(Path(sys.argv[1]).read_text())), Path(folder))), flush=True)

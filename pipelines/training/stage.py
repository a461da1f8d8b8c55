"""One stage of a language model's training: rows become examples, the model is trained, and its folder is written.

Invariant: a file or folder of the stage counts only when it is complete and durable. `examples.json` is written after
the examples, and the folder of the trained model appears by a rename; what a killed start left before that is replaced.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, takewhile
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from datasets import Dataset
from fsspec.implementations.local import LocalFileSystem
from scipy.stats import t as student

from pipelines.publishing.card_header import hub_model
from pipelines.publishing.model_card import blimp_line
from pipelines.result import Result, flat
from pipelines.training.rows import RowSource
from schemas.errors import JobError, StoppedError
from schemas.text import plural
from schemas.train import ClmStage, TrainJob
from services.models.minimal_pairs import MinimalPair
from services.observability.series import TrainMetrics
from services.storage.filesystem import make_folder, sync_files, sync_folder, write_atomic
from trainers import initial_model
from trainers.examples import SPLITS, ExampleEncoder, lengths_of, pack_documents, read_examples, write_examples
from trainers.language_model import StageOutcome, train_language_model
from trainers.progress import StageProgress

_log = logging.getLogger("kindling")

_FS = LocalFileSystem()


@dataclass(frozen=True)
class StageReport:
    """Figures of a finished stage, as train.json keeps them. `dev` in a name stands for held-out rows.

    Attributes:
        kind: kind of the stage, `clm` or `sft`.
        folder: folder of the stage's model in the run folder.
        parts: number of documents and words, or of rows, of each part, held-out ones included.
        examples: number of examples in `train`, and of held-out ones in `dev` that were evaluated.
        tokens: number of tokens in them.
        not_whole: number of examples that were truncated, split or dropped, and of rows that could not be read.
        max_length: maximum number of tokens in an example.
        precision: precision of the arithmetic.
        steps: number of optimizer steps taken.
        best_step: optimizer step whose weights were kept.
        dev_loss_before, dev_loss: loss before the first step and with the kept weights: mean negative log-likelihood
            per token, averaged over the held-out examples, in nats.
        change: mean change of that loss and the ends of its 95% interval, paired by input row (see `change_of`).
        dev_losses: loss at each evaluation by step, as Trainer averages it over batches.
        seconds: seconds that the last start took.
        blimp: accuracy on minimal pairs (see `trainers.grammar_guard.GrammarCheck.report`); None where none were
            scored.
        firsts: by name of a count in `not_whole`, the first row that it counts, with the cause; some have none.
    """

    kind: str
    folder: str
    parts: dict[str, dict[str, int]]
    examples: dict[str, int]
    tokens: dict[str, int]
    not_whole: dict[str, int]
    max_length: int
    precision: str
    steps: int
    best_step: int
    dev_loss_before: float
    dev_loss: float
    change: list[float]
    dev_losses: dict[str, float]
    seconds: float
    blimp: dict[str, Any] | None = None
    firsts: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Returns the report as lines for a person."""
        mean, low, high = self.change
        losses = f"{self.dev_loss_before:.3f} -> {self.dev_loss:.3f} ({mean:+.3f}, 95% {low:+.3f} to {high:+.3f})"
        details = [
            f"  {number} {fault}" + (f"; the first is {self.firsts[fault]}" if fault in self.firsts else "")
            for fault, number in self.not_whole.items()
        ]
        if self.blimp:
            details.append(f"  {blimp_line(self.best_step, self.blimp)}")
        return [f"{self.folder}: {plural(self.steps, 'step')}, loss on held-out rows {losses}", *details]


@dataclass(frozen=True)
class LanguageModelReport(Result):
    """Figures of a finished training, stage by stage.

    Attributes:
        path: run folder.
        stages: reports of the stages.
    """

    path: str
    stages: list[StageReport]

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each stage."""
        return [flat(asdict(stage)) for stage in self.stages]

    def lines(self) -> list[str]:
        """Returns the report as lines for a person."""
        return [*(line for stage in self.stages for line in stage.lines()), f"the model: {self.path}"]


class StageTraining:
    """Training of one stage of a job.

    Args:
        job: the job.
        number: number of the stage in the job, from 0.
        folder: run folder.
        precision: precision of the arithmetic.
        should_stop: callable that returns True once the training is to stop; called after each step, and between rows.
        metrics: Prometheus series of the job.
    """

    def __init__(
        self, job: TrainJob, number: int, folder: Path, precision: initial_model.Precision,
        should_stop: Callable[[], bool], metrics: TrainMetrics,
    ) -> None:  # fmt: skip
        self._job, self._stage, self._number, self._folder = job, job.language_stages()[number], number, folder
        self._precision: initial_model.Precision = precision
        self._should_stop = should_stop
        self._name = f"stages/{number}-{self._stage.kind}"
        name = self._name.partition("/")[2]
        self._work = folder / "work" / name
        self._progress = StageProgress(name, metrics, folder / "tensorboard" / name)

    def train(self, start: str, sources: list[RowSource], pairs: Sequence[MinimalPair]) -> StageReport:
        """Trains the stage, or continues from its last checkpoint.

        Args:
            start: checkpoint that the stage begins with.
            sources: data of the stage.
            pairs: minimal pairs of the stage's section `blimp`; none where it has no such section.

        Raises:
            KindlingError: the data has a fault, or the training cannot go on.
            StoppedError: `should_stop` returned True.
        """
        began_at, job, stage = monotonic(), self._job, self._stage
        make_folder(str(self._work))
        tokenizer = initial_model.load_tokenizer(start, job.model)
        sizes = job.model.from_config if self._number == 0 else None
        if sizes is not None:
            model = initial_model.new_model(sizes, tokenizer, job.seed)
        else:
            model = initial_model.load_model(start, job.model, tokenizer)
        max_length = initial_model.resolve_max_length(stage.max_length, model, f"stages.{self._number}.max_length")
        facts = self._make_examples(sources, tokenizer, max_length)
        train, held_out = self._read_examples()
        _log.info("%s: %s to train on, %d held out", self._name, plural(len(train), "example"), len(held_out))
        model, outcome = train_language_model(
            stage, model, tokenizer, train, held_out, self._work, self._precision, job.seed, self._should_stop,
            self._progress, pairs,
        )  # fmt: skip
        if outcome.was_stopped:
            cause = f"{self._name} was stopped at step {outcome.steps}"
            raise StoppedError("", None, cause, "start it again: it goes on there")
        self._save(model, tokenizer)
        return self._report(facts, max_length, outcome, train, held_out, monotonic() - began_at)

    def _read_examples(self) -> tuple[Dataset, Dataset]:
        """Returns the examples to train on, and a sample of the held-out ones, drawn evenly from all parts."""
        train, held_out = (read_examples(self._work / f"{name}.arrow") for name in SPLITS)
        if len(held_out) > self._stage.dev_examples:
            drawn = np.random.default_rng(self._job.seed).permutation(len(held_out))[: self._stage.dev_examples]
            held_out = held_out.select(np.sort(drawn))
        return train, held_out

    def _make_examples(self, sources: list[RowSource], tokenizer: Any, max_length: int) -> dict[str, Any]:
        """Writes the files of examples, unless an earlier start did; returns the report's facts about them."""
        facts_path = self._work / "examples.json"
        if facts_path.is_file():
            return json.loads(facts_path.read_text())
        is_packed = isinstance(self._stage, ClmStage) and self._stage.packing
        encoder = ExampleEncoder(tokenizer, max_length, None if is_packed else self._stage.too_long)
        folder = self._work / "documents" if is_packed else self._work
        folder.mkdir(exist_ok=True)
        write_examples(takewhile(self._continue_or_stop, chain.from_iterable(sources)), encoder, folder)
        if is_packed:
            for name in SPLITS:
                pack_documents(folder / f"{name}.arrow", self._work / f"{name}.arrow", max_length, self._job.seed)
            shutil.rmtree(folder)
        # Two held-out examples at least: an interval needs more than one.
        self._refuse_too_few("train", "parts", "to train on", 1, encoder)
        self._refuse_too_few("dev", "dev", "held out", 2, encoder)
        unreadable = sum(source.unreadable for source in sources)
        first = next((source.first_unreadable for source in sources if source.unreadable), "")
        facts = {
            "parts": {name: counts for source in sources for name, counts in source.counts.items()},
            "not_whole": {**encoder.counts, **({"unreadable": unreadable} if unreadable else {})},
            "firsts": {**encoder.firsts, **({"unreadable": first} if unreadable else {})},
        }
        # The examples must be on disk before the file that says they are.
        sync_files(self._work)
        write_atomic(_FS, str(facts_path), json.dumps(facts).encode())
        return facts

    def _continue_or_stop(self, _row: Any) -> bool:
        """Returns True for every row.

        Raises:
            StoppedError: the training is to stop.
        """
        if self._should_stop():
            raise StoppedError("", None, f"{self._name} was stopped while its rows were read", "start it again")
        return True

    def _refuse_too_few(self, split: str, key: str, purpose: str, min_examples: int, encoder: ExampleEncoder) -> None:
        """Refuses rows that give fewer examples than a split needs."""
        examples = read_examples(self._work / f"{split}.arrow")
        if len(examples) < min_examples:
            firsts = {fault: f" (the first is {row})" for fault, row in encoder.firsts.items()}
            faults = "".join(
                f", {number} were {fault}{firsts.get(fault, '')}" for fault, number in encoder.counts.items()
            )
            cause = f"{len(examples)} examples {purpose}, and it takes {min_examples}{faults}"
            remedy = "give more rows, another `dev` share, or a larger max_length"
            raise JobError(f"stages.{self._number}.{key}", None, cause, remedy)

    def _save(self, model: Any, tokenizer: Any) -> None:
        """Writes the model beside the stage's folder, makes it durable, and moves it into place."""
        scratch = self._work / "model"
        if self._stage.lora and not self._stage.lora.merge:
            adapter = model.peft_config["default"]
            adapter.base_model_name_or_path = hub_model(self._job.model.id) or adapter.base_model_name_or_path
            # No vocabulary was changed; to find that out, peft would ask the Hub.
            model.save_pretrained(scratch, save_embedding_layers=False)
        else:
            model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        sync_files(scratch)
        sync_folder(str(scratch))
        destination = self._folder / self._name
        make_folder(str(destination.parent))
        # A start that was killed before it wrote its record may have left one.
        shutil.rmtree(destination, ignore_errors=True)
        os.rename(scratch, destination)
        sync_folder(str(destination.parent))

    def _report(
        self, facts: dict[str, Any], max_length: int, outcome: StageOutcome, train: Dataset, held_out: Dataset,
        seconds: float,
    ) -> StageReport:  # fmt: skip
        return StageReport(
            kind=self._stage.kind, folder=self._name, examples={"train": len(train), "dev": len(held_out)},
            tokens={"train": int(lengths_of(train).sum()), "dev": sum(map(len, held_out["input_ids"]))},
            max_length=max_length, precision=self._precision, steps=outcome.steps, best_step=outcome.best_step,
            dev_loss_before=round(float(outcome.before.mean()), 5), dev_loss=round(float(outcome.after.mean()), 5),
            change=change_of(outcome.before, outcome.after, np.array(held_out["row"])), seconds=round(seconds, 1),
            dev_losses={str(step): loss for step, loss in outcome.held_out_losses.items()}, blimp=outcome.blimp,
            **facts,
        )  # fmt: skip


def change_of(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> list[float]:
    """Returns the mean change of the loss and the ends of its 95% interval, by a paired t-test over input rows.

    The examples of one input row are not independent, so they count as one observation: their mean. Student's t
    distribution is used because there may be few input rows.

    Args:
        before, after: losses of the examples, shape (examples,).
        rows: number of the input row of each example, shape (examples,).

    Returns:
        Mean, low end, high end.
    """
    _, row_of = np.unique(rows, return_inverse=True)
    change = np.bincount(row_of, after - before) / np.bincount(row_of)
    mean, standard_error = float(change.mean()), float(change.std(ddof=1)) / math.sqrt(len(change))
    half = float(student.ppf(0.975, len(change) - 1)) * standard_error
    return [round(value, 5) for value in (mean, mean - half, mean + half)]

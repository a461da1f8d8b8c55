"""One stage of a training: its rows become examples, the model is trained on them, and lies in a folder of its own."""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, takewhile
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from datasets import Dataset
from fsspec.implementations.local import LocalFileSystem
from scipy.stats import t as student

from pipelines.publishing.model_card import blimp_line
from pipelines.training.rows import Completions, Documents
from schemas.errors import JobError, StoppedError
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
    """What came of a stage.

    Attributes:
        parts: documents and words, or rows, of each part; those held out too.
        examples: of train, and of dev those that are looked at.
        tokens: the same in tokens.
        not_whole: examples that were truncated, split or dropped, and rows that could not be read.
        dev_loss_before, dev_loss: mean negative log-likelihood a token, averaged over the held-out examples; in nats.
        change: of that, with a 95% interval paired by input row: mean, low, high. By Student's t distribution, as there
            may be few rows.
        dev_losses: as training averaged it over batches, at each evaluation, by step.
        blimp: accuracy on minimal pairs, where the stage looks at it; see `trainers.grammar_guard.GrammarCheck.report`.
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

    def lines(self) -> list[str]:
        """For a person."""
        mean, low, high = self.change
        losses = f"{self.dev_loss_before:.3f} -> {self.dev_loss:.3f} ({mean:+.3f}, 95% {low:+.3f} to {high:+.3f})"
        told = [f"  {number} {what}" for what, number in self.not_whole.items()]
        if self.blimp:
            told.append(f"  {blimp_line(self.best_step, self.blimp)}")
        return [f"{self.folder}: {self.steps} steps, loss on held-out rows {losses}", *told]


@dataclass(frozen=True)
class LanguageModelReport:
    """What came of a training."""

    path: str
    stages: list[StageReport]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        return [*(line for stage in self.stages for line in stage.lines()), f"the model: {self.path}"]


class Stage:
    """A stage that is to be trained.

    Args:
        number: which of the job's.
        folder: the run's.
        precision: that it computes in.
        should_stop: asked after each step, and between rows.
        metrics: the job's.
    """

    def __init__(
        self, job: TrainJob, number: int, folder: Path, precision: str, should_stop: Any, metrics: TrainMetrics
    ) -> None:
        self._job, self._stage, self._number, self._folder = job, job.stages[number], number, folder
        self._precision, self._should_stop = precision, should_stop
        self._name = f"stages/{number}-{self._stage.kind}"
        name = self._name.partition("/")[2]
        self._work = folder / "work" / name
        self._progress = StageProgress(name, metrics, folder / "tensorboard" / name)

    def train(self, start: str, sources: list[Documents | Completions], pairs: Sequence[MinimalPair]) -> StageReport:
        """Trains it, or goes on from its last checkpoint.

        Args:
            start: the checkpoint that it begins with.
            sources: what it reads.
            pairs: those of its section `blimp`.

        Raises:
            KindlingError: its data is at fault, or it was stopped.
        """
        began, job, stage = monotonic(), self._job, self._stage
        make_folder(str(self._work))
        tokenizer = initial_model.load_tokenizer(start, job.model)
        new = job.model.from_config is not None and self._number == 0
        model = initial_model.new_model(job.model.from_config, tokenizer, job.seed) if new else (
            initial_model.load_model(start, job.model, tokenizer)
        )  # fmt: skip
        length = initial_model.resolve_max_length(stage.max_length, model, f"stages.{self._number}.max_length")
        facts = self._examples(sources, tokenizer, length)
        train, dev = self._split()
        _log.info("%s: %d examples to train on, %d held out", self._name, len(train), len(dev))
        model, outcome = train_language_model(
            stage, model, tokenizer, train, dev, self._work, self._precision, job.seed, self._should_stop,
            self._progress, pairs,
        )  # fmt: skip
        if outcome.was_stopped:
            cause = f"{self._name} was stopped at step {outcome.steps}"
            raise StoppedError("", None, cause, "start it again: it goes on there")
        self._save(model, tokenizer)
        return self._report(facts, length, outcome, train, dev, monotonic() - began)

    def _split(self) -> tuple[Dataset, Dataset]:
        """What is trained on; and of what is held out as much as is looked at, drawn from all parts."""
        train, dev = (read_examples(self._work / f"{name}.arrow") for name in SPLITS)
        if len(dev) > self._stage.dev_examples:
            drawn = np.random.default_rng(self._job.seed).permutation(len(dev))[: self._stage.dev_examples]
            dev = dev.select(np.sort(drawn))
        return train, dev

    def _examples(self, sources: list[Documents | Completions], tokenizer: Any, length: int) -> dict[str, Any]:
        """Writes the examples, or finds them there; what they were made of."""
        done = self._work / "examples.json"
        if done.is_file():
            return json.loads(done.read_text())
        packed = isinstance(self._stage, ClmStage) and self._stage.packing
        encoder = ExampleEncoder(tokenizer, length, None if packed else self._stage.too_long)
        first = self._work / "documents" if packed else self._work
        first.mkdir(exist_ok=True)
        write_examples(takewhile(self._goes_on, chain.from_iterable(sources)), encoder, first)
        for name in SPLITS if packed else ():
            pack_documents(first / f"{name}.arrow", self._work / f"{name}.arrow", length, self._job.seed)
        if packed:
            shutil.rmtree(first)
        for name in SPLITS:
            self._refuse_too_few(name, encoder)
        unreadable = sum(source.unreadable for source in sources)
        facts = {
            "parts": {name: counts for source in sources for name, counts in source.counts.items()},
            "not_whole": {**encoder.counts, **({"unreadable": unreadable} if unreadable else {})},
        }
        sync_files(self._work)  # what examples.json says is there must be
        write_atomic(_FS, str(done), json.dumps(facts).encode())
        return facts

    def _goes_on(self, _row: Any) -> bool:
        if self._should_stop():
            raise StoppedError("", None, f"{self._name} was stopped while its rows were read", "start it again")
        return True

    def _refuse_too_few(self, name: str, encoder: ExampleEncoder) -> None:
        """A split must have some examples: two, where an interval is to be told of them."""
        examples = read_examples(self._work / f"{name}.arrow")
        key, what, least = ("parts", "to train on", 1) if name == "train" else ("dev", "held out", 2)
        if len(examples) < least:
            told = "".join(f", {number} were {fault}" for fault, number in encoder.counts.items())
            cause = f"{len(examples)} examples {what}, and it takes {least}{told}"
            remedy = "give more rows, another `dev` share, or a larger max_length"
            raise JobError(f"stages.{self._number}.{key}", None, cause, remedy)

    def _save(self, model: Any, tokenizer: Any) -> None:
        whole = self._work / "model"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        sync_files(whole)
        sync_folder(str(whole))
        destination = self._folder / self._name
        make_folder(str(destination.parent))
        shutil.rmtree(destination, ignore_errors=True)  # of a start that was killed before it wrote its record
        os.rename(whole, destination)
        sync_folder(str(destination.parent))

    def _report(
        self, facts: dict[str, Any], length: int, outcome: StageOutcome, train: Dataset, dev: Dataset, seconds: float
    ) -> StageReport:
        return StageReport(
            kind=self._stage.kind, folder=self._name, examples={"train": len(train), "dev": len(dev)},
            tokens={"train": int(lengths_of(train).sum()), "dev": sum(map(len, dev["input_ids"]))}, max_length=length,
            precision=self._precision, steps=outcome.steps, best_step=outcome.best_step,
            dev_loss_before=round(float(outcome.before.mean()), 5), dev_loss=round(float(outcome.after.mean()), 5),
            change=change_of(outcome.before, outcome.after, np.array(dev["row"])), seconds=round(seconds, 1),
            dev_losses={str(step): loss for step, loss in outcome.held_out_losses.items()}, blimp=outcome.blimp,
            **facts,
        )  # fmt: skip


def change_of(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> list[float]:
    """Mean change of the loss and its 95% interval; the examples of one input row are one witness."""
    _, row_of = np.unique(rows, return_inverse=True)
    change = np.bincount(row_of, after - before) / np.bincount(row_of)
    mean, spread = float(change.mean()), float(change.std(ddof=1)) / math.sqrt(len(change))
    half = float(student.ppf(0.975, len(change) - 1)) * spread
    return [round(value, 5) for value in (mean, mean - half, mean + half)]

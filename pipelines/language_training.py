"""Trains a language model through the stages of a job; the folder is told of in training_folder.py."""

import json
import logging
import math
import os
import shutil
from collections import ChainMap
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

from pipelines.blimp import described, sample_of
from pipelines.endpoint import served
from pipelines.model_card import blimp_line
from pipelines.plan import refuse_lost_path
from pipelines.stopping import stop_signals
from pipelines.training_folder import alone, begun, finish, logged, record_of, unwritable, write_record
from pipelines.training_rows import Answers, Documents, sources_of
from schemas.errors import JobError, StoppedError
from schemas.train import ClmStage, TrainJob
from services.filesystem import make_folder, sync_folder, write_atomic
from services.metrics import TrainMetrics
from services.minimal_pairs import MinimalPair
from services.models import locate
from trainers import causal_model
from trainers.examples import SPLITS, Encoder, lengths_of, pack, read_examples, write_examples
from trainers.language_model import Outcome, train_language_model
from trainers.progress import StageProgress
from trainers.watching import sync_files

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
        blimp: accuracy on minimal pairs, where the stage looks at it; see `trainers.grammar.Grammar.report`.
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


def train_stages(job: TrainJob) -> LanguageModelReport:
    """Trains, or goes on where it was stopped; what is done is not done again.

    Raises:
        KindlingError: the job, its data or its model is at fault, or the folder holds something else.
        StoppedError: a signal came; the same command goes on.
    """
    refuse_lost_path(job.output.path, _FS)
    folder = Path(job.output.path).expanduser().absolute()
    sources = [sources_of(number, stage, job.seed) for number, stage in enumerate(job.stages)]
    contents = {str(number): dict(ChainMap(*(part.content for part in parts))) for number, parts in enumerate(sources)}
    pairs = {n: sample_of(f"stages.{n}.blimp", s.blimp, job.seed) for n, s in enumerate(job.stages) if s.blimp}
    for number, sample in pairs.items():
        contents[str(number)]["minimal pairs"] = described(sample)  # a blank: no part has that name
    path, revision = locate(job.model)
    _refuse_unfit(job, path)
    try:
        with alone(folder):
            record = begun(folder, record_of(job, contents, revision, causal_model.resolved(job.precision)))
            precision = causal_model.resolved(record["precision"])
            metrics = TrainMetrics(job.name)
            with (
                logged(folder),
                served(metrics, job.metrics) as record["metrics"],
                stop_signals(grace_seconds=0) as stop_within,
            ):
                write_record(folder, record)
                for number in range(len(record["stages"]), len(job.stages)):
                    start = str(folder / record["stages"][-1]["folder"]) if record["stages"] else path
                    run = _Stage(job, number, folder, precision, lambda: stop_within() is not None, metrics)
                    record["stages"].append(asdict(run.train(start, sources[number], pairs.get(number, ()))))
                    write_record(folder, record)
                    shutil.rmtree(folder / "work")
            finish(folder, record)
    except OSError as error:
        raise unwritable(folder, error) from None
    return LanguageModelReport(str(folder), [StageReport(**stage) for stage in record["stages"]])


def _refuse_unfit(job: TrainJob, path: str) -> None:
    """Refuses at the start what the model cannot do in a later stage."""
    shape = causal_model.shape_of(path, job.model, causal_model.load_tokenizer(path, job.model))
    for number, stage in enumerate(job.stages):
        causal_model.example_length(stage.max_length, shape, f"stages.{number}.max_length")
        causal_model.refuse_unknown_layers(stage.lora, shape, f"stages.{number}.lora")


class _Stage:
    def __init__(
        self, job: TrainJob, number: int, folder: Path, precision: str, should_stop: Any, metrics: TrainMetrics
    ) -> None:
        self._job, self._stage, self._number, self._folder = job, job.stages[number], number, folder
        self._precision, self._should_stop = precision, should_stop
        self._name = f"stages/{number}-{self._stage.kind}"
        name = self._name.partition("/")[2]
        self._work = folder / "work" / name
        self._progress = StageProgress(name, metrics, folder / "tensorboard" / name)

    def train(self, start: str, sources: list[Documents | Answers], pairs: Sequence[MinimalPair]) -> StageReport:
        began, job, stage = monotonic(), self._job, self._stage
        make_folder(str(self._work))
        tokenizer = causal_model.load_tokenizer(start, job.model)
        new = job.model.from_config is not None and self._number == 0
        model = causal_model.new_model(job.model.from_config, tokenizer, job.seed) if new else (
            causal_model.load_model(start, job.model, tokenizer)
        )  # fmt: skip
        length = causal_model.example_length(stage.max_length, model, f"stages.{self._number}.max_length")
        facts = self._examples(sources, tokenizer, length)
        train, dev = self._split()
        _log.info("%s: %d examples to train on, %d held out", self._name, len(train), len(dev))
        model, outcome = train_language_model(
            stage, model, tokenizer, train, dev, self._work, self._precision, job.seed, self._should_stop,
            self._progress, pairs,
        )  # fmt: skip
        if outcome.stopped:
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

    def _examples(self, sources: list[Documents | Answers], tokenizer: Any, length: int) -> dict[str, Any]:
        """Writes the examples, or finds them there; what they were made of."""
        done = self._work / "examples.json"
        if done.is_file():
            return json.loads(done.read_text())
        packed = isinstance(self._stage, ClmStage) and self._stage.packing
        encoder = Encoder(tokenizer, length, None if packed else self._stage.too_long)
        first = self._work / "documents" if packed else self._work
        first.mkdir(exist_ok=True)
        write_examples(takewhile(self._goes_on, chain.from_iterable(sources)), encoder, first)
        for name in SPLITS if packed else ():
            pack(first / f"{name}.arrow", self._work / f"{name}.arrow", length, self._job.seed)
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

    def _refuse_too_few(self, name: str, encoder: Encoder) -> None:
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
        self, facts: dict[str, Any], length: int, outcome: Outcome, train: Dataset, dev: Dataset, seconds: float
    ) -> StageReport:
        return StageReport(
            kind=self._stage.kind, folder=self._name, examples={"train": len(train), "dev": len(dev)},
            tokens={"train": int(lengths_of(train).sum()), "dev": sum(map(len, dev["input_ids"]))}, max_length=length,
            precision=self._precision, steps=outcome.steps, best_step=outcome.best_step,
            dev_loss_before=round(float(outcome.before.mean()), 5), dev_loss=round(float(outcome.after.mean()), 5),
            change=_change(outcome.before, outcome.after, np.array(dev["row"])), seconds=round(seconds, 1),
            dev_losses={str(step): loss for step, loss in outcome.dev_losses.items()}, blimp=outcome.blimp, **facts,
        )  # fmt: skip


def _change(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> list[float]:
    """Mean change of the loss and its 95% interval; the examples of one input row are one witness."""
    _, row_of = np.unique(rows, return_inverse=True)
    change = np.bincount(row_of, after - before) / np.bincount(row_of)
    mean, spread = float(change.mean()), float(change.std(ddof=1)) / math.sqrt(len(change))
    half = float(student.ppf(0.975, len(change) - 1)) * spread
    return [round(value, 5) for value in (mean, mean - half, mean + half)]

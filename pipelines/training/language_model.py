"""Trains a language model through the stages of a job; the folder is told of in training_folder.py."""

import shutil
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.inputs.minimal_pairs import identify_sample, sample_pairs
from pipelines.run_folder import claimed, refuse_lost_path, write_errors
from pipelines.stopping import stop_signals
from pipelines.training.folder import begun, finish, logged, record_of, write_record
from pipelines.training.rows import Completions, Documents, sources_of
from pipelines.training.stage import LanguageModelReport, Stage, StageReport
from schemas.train import TrainJob
from services.models.checkpoints import locate
from services.models.minimal_pairs import MinimalPair
from services.observability.endpoint import serve_metrics
from services.observability.series import TrainMetrics
from services.storage.store import ShardStore
from trainers import initial_model

_FS = LocalFileSystem()


def train_stages(job: TrainJob) -> LanguageModelReport:
    """Trains, or goes on where it was stopped; what is done is not done again.

    Raises:
        KindlingError: the job, its data or its model is at fault, or the folder holds something else.
        StoppedError: a signal came; the same command goes on.
    """
    store = ShardStore(job.output.path)
    refuse_lost_path(store.url, store.fs)
    folder = Path(store.root)
    sources = [sources_of(number, stage, job.seed) for number, stage in enumerate(job.stages)]
    contents = {str(number): dict(ChainMap(*(part.content for part in parts))) for number, parts in enumerate(sources)}
    pairs = {n: sample_pairs(f"stages.{n}.blimp", s.blimp, job.seed) for n, s in enumerate(job.stages) if s.blimp}
    for number, sample in pairs.items():
        contents[str(number)]["minimal pairs"] = identify_sample(sample)  # a blank: no part has that name
    path, revision = locate(job.model)
    _refuse_unfit(job, path)
    with write_errors(store.url), claimed(store, "train"):
        record = begun(store, record_of(job, contents, revision, initial_model.resolve_precision(job.precision)))
        if len(record["stages"]) < len(job.stages):
            _train_rest(job, folder, record, path, sources, pairs)
        finish(folder, record)
    return LanguageModelReport(str(folder), [StageReport(**stage) for stage in record["stages"]])


def _train_rest(
    job: TrainJob, folder: Path, record: dict[str, Any], path: str, sources: list[list[Documents | Completions]],
    pairs: dict[int, list[MinimalPair]],
) -> None:  # fmt: skip
    """Trains the stages that are not done, each from the model that the one before it left."""
    precision = initial_model.resolve_precision(record["precision"])
    metrics = TrainMetrics(job.name)
    with (
        logged(folder),
        serve_metrics(metrics, job.metrics) as record["metrics"],
        stop_signals(grace_seconds=0) as stop_within,
    ):
        record["start_id"] = metrics.start_id
        write_record(folder, record)
        with _last_metrics_kept(folder, record, metrics):
            for number in range(len(record["stages"]), len(job.stages)):
                start = str(folder / record["stages"][-1]["folder"]) if record["stages"] else path
                stage = Stage(job, number, folder, precision, lambda: stop_within() is not None, metrics)
                record["stages"].append(asdict(stage.train(start, sources[number], pairs.get(number, []))))
                write_record(folder, record)
                shutil.rmtree(folder / "work")


@contextmanager
def _last_metrics_kept(folder: Path, record: dict[str, Any], metrics: TrainMetrics) -> Iterator[None]:
    """Writes to train.json how the training ended, beside what earlier starts told of stages that are done."""
    try:
        yield
    finally:
        record.update(metrics.final_entries(record))
        with suppress(OSError):  # what hinders this has ended the training, and is told
            write_record(folder, record)


def _refuse_unfit(job: TrainJob, path: str) -> None:
    """Refuses at the start what the model cannot do in a later stage."""
    shape = initial_model.model_without_weights(path, job.model, initial_model.load_tokenizer(path, job.model))
    for number, stage in enumerate(job.stages):
        initial_model.resolve_max_length(stage.max_length, shape, f"stages.{number}.max_length")
        initial_model.refuse_unknown_layers(stage.lora, shape, f"stages.{number}.lora")

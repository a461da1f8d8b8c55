"""Job that trains a language model: its stages one after another, each from the model that the one before it left.

Invariant: a job that is stopped or killed at any moment, and started again there, ends with the models of a job that
ran through. A finished stage is never trained again, and an unfinished one continues from its last checkpoint
(`trainers.language_model`).
"""

import shutil
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.inputs.minimal_pairs import identify_sample, sample_pairs
from pipelines.run_folder import claimed, refuse_lost_path, write_errors
from pipelines.stopping import stop_signals
from pipelines.training.folder import finish, log_to_folder, new_record, resume_record, write_record
from pipelines.training.rows import RowSource, row_sources
from pipelines.training.stage import LanguageModelReport, StageReport, StageTraining
from schemas.train import TrainJob
from services.models.checkpoints import locate
from services.models.minimal_pairs import MinimalPair
from services.observability.endpoint import serve_metrics
from services.observability.series import TrainMetrics
from services.storage.store import ShardStore
from trainers import initial_model


def train_stages(job: TrainJob) -> LanguageModelReport:
    """Trains all stages of a job, or those that an earlier start did not finish.

    Raises:
        KindlingError: the job, its data or its model has a fault, or the folder holds something else.
        StoppedError: a stop signal came. The same command resumes the training.
    """
    store = ShardStore(job.output.path)
    refuse_lost_path(store.url, store.fs)
    folder = Path(store.root)
    stages = job.language_stages()
    sources = [row_sources(number, stage, job.seed) for number, stage in enumerate(stages)]
    contents: dict[str, dict[str, Any]] = {
        str(number): dict(ChainMap(*(source.content for source in sources_of_stage)))
        for number, sources_of_stage in enumerate(sources)
    }
    pairs = {
        number: sample_pairs(f"stages.{number}.blimp", stage.blimp, job.seed)
        for number, stage in enumerate(stages)
        if stage.blimp
    }
    for number, sample in pairs.items():
        # The name has a space, which no name of a part has: it hides none.
        contents[str(number)]["minimal pairs"] = identify_sample(sample)
    path, revision = locate(job.model)
    _refuse_unfit_stages(job, path)
    with write_errors(store.url), claimed(store, "train"):
        precision = initial_model.resolve_precision(job.precision)
        record = resume_record(store, new_record(job, contents, revision, precision))
        if len(record["stages"]) < len(stages):
            _train_remaining_stages(job, folder, record, path, sources, pairs)
        finish(folder, record)
    return LanguageModelReport(str(folder), [StageReport(**stage) for stage in record["stages"]])


def _train_remaining_stages(
    job: TrainJob, folder: Path, record: dict[str, Any], path: str, sources: list[list[RowSource]],
    pairs: dict[int, list[MinimalPair]],
) -> None:  # fmt: skip
    """Trains the stages that are not finished, and adds each to the record as soon as it is.

    Args:
        job: the job.
        folder: run folder.
        record: train.json, which is changed and written.
        path: checkpoint that the first stage begins with.
        sources: data of each stage.
        pairs: minimal pairs of each stage that has some, by its number.
    """
    # The record's and not the job's: a job that is resumed on another machine computes as it did on the first.
    precision = initial_model.resolve_precision(record["precision"])
    metrics = TrainMetrics(job.name)
    with (
        log_to_folder(folder),
        serve_metrics(metrics, job.metrics) as record["metrics"],
        stop_signals(grace_seconds=0) as stop_within,
    ):

        def should_stop() -> bool:
            return stop_within() is not None

        record["start_id"] = metrics.start_id
        write_record(folder, record)
        with _write_last_metrics(folder, record, metrics):
            for number in range(len(record["stages"]), len(sources)):
                start = str(folder / record["stages"][-1]["folder"]) if record["stages"] else path
                stage = StageTraining(job, number, folder, precision, should_stop, metrics)
                record["stages"].append(asdict(stage.train(start, sources[number], pairs.get(number, []))))
                write_record(folder, record)
                shutil.rmtree(folder / "work")


@contextmanager
def _write_last_metrics(folder: Path, record: dict[str, Any], metrics: TrainMetrics) -> Iterator[None]:
    """At the end of the block, adds the last metrics to train.json; those of stages of earlier starts stay in it."""
    try:
        yield
    finally:
        record.update(metrics.final_entries(record))
        with suppress(OSError):  # whatever keeps it from being written has ended the training, and is reported
            write_record(folder, record)


def _refuse_unfit_stages(job: TrainJob, path: str) -> None:
    """Refuses at the start what the model cannot do in any stage, rather than hours later."""
    model = initial_model.model_without_weights(path, job.model, initial_model.load_tokenizer(path, job.model))
    for number, stage in enumerate(job.language_stages()):
        initial_model.resolve_max_length(stage.max_length, model, f"stages.{number}.max_length")
        initial_model.refuse_unknown_layers(stage.lora, model, f"stages.{number}.lora")

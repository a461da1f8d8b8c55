"""`kindling check` of jobs that label, compose, train or evaluate: opens their data and finds their models.

Nothing is written, and no model is loaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from pipelines.checking.check import find_folder, find_model
from pipelines.checking.findings import CheckedJob, Finding, fault_of
from pipelines.corpora.composition import surveyed
from pipelines.corpora.documents import documents_of
from pipelines.corpora.word_budget import words_asked
from pipelines.run_folder import has_record
from pipelines.training.rows import Completions, errors_under
from schemas.compose import ComposeJob, Part
from schemas.errors import KindlingError
from schemas.evaluate import EvaluateJob
from schemas.job import Input
from schemas.label import LabelJob
from schemas.text import plural
from schemas.train import ClassifierStage, ClmStage, GrammarGuard, SftStage, TrainJob
from services.storage.store import ShardStore

# Rows or documents of a part that are read: a second's work.
_MAX_ROWS = 20_000
_DATA = "data"


@dataclass(frozen=True)
class DataCheck(CheckedJob):
    """Facts about a job of `label`, `compose`, `train` or `evaluate` that need no model.

    Attributes:
        verb: verb that runs the job.
        job: name of the job.
        findings: state of its data, its models and its output folder.
    """

    verb: str
    job: str
    findings: list[Finding]


def check_data(verb: str, job: Any) -> DataCheck:
    """Opens the data of a job, and finds its models and its output folder.

    Args:
        verb: `label`, `compose`, `train` or `evaluate`.
        job: a job of that verb.
    """
    findings = [*_CHECKS[verb](job), *_output(verb, job.output.path)]
    return DataCheck(verb, job.name, findings)


def _finding(topic: str, look: Callable[[], str]) -> Finding:
    """Makes a finding of the text that `look` returns, or of the error that it raises."""
    try:
        return Finding(topic, "ok", look())
    except KindlingError as error:
        return fault_of(topic, error)


def _output(verb: str, path: str) -> Iterator[Finding]:
    try:
        has_record(ShardStore(path), verb)
    except KindlingError as error:
        yield fault_of("output", error)
    else:
        yield from find_folder(path)


def _label(job: LabelJob) -> Iterator[Finding]:
    from pipelines.inputs.files import input_files
    from pipelines.labelling.ranges import plan_ranges
    from services.models.classifier import classifier_revision  # it imports torch, which takes seconds

    def look() -> str:
        files = input_files(Input(path=job.input.path, format="text"), is_prose=True)
        ranges = plan_ranges(files, job.output.bytes_per_shard)
        return f"{plural(len(files), 'file')}, {plural(len(ranges), 'shard')}"

    yield _finding(_DATA, look)
    yield _finding("classifier", lambda: f"{job.classifier.id}, revision {classifier_revision(job.classifier)[:12]}")


def _compose(job: ComposeJob) -> Iterator[Finding]:
    yield _finding("words", lambda: f"{job.words:,} at most" if words_asked(job, {}) else "")
    yield from _documents("parts", job.parts)


def _documents(key: str, parts: dict[str, Part]) -> Iterator[Finding]:
    def look(name: str, part: Part) -> str:
        with errors_under(key):
            counts = surveyed(name, islice(documents_of(name, part), _MAX_ROWS), seed=0)
        unreadable = f"; {counts.unreadable:,} cannot be read: {counts.first_unreadable}" if counts.unreadable else ""
        more = " or more" if counts.documents + counts.unreadable == _MAX_ROWS else ""
        return f"{key}.{name}: {plural(counts.documents, 'document')}{more}, {plural(counts.words, 'word')}{unreadable}"

    for name, part in parts.items():
        yield _finding(_DATA, partial(look, name, part))


def _train(job: TrainJob) -> Iterator[Finding]:
    for number, stage in enumerate(job.stages):
        key = f"stages.{number}"
        if isinstance(stage, ClassifierStage):
            yield _finding(_DATA, partial(_labelled_texts, stage))
        elif isinstance(stage, ClmStage):
            yield from _documents(f"{key}.parts", stage.parts)
        else:
            yield from _completions(f"{key}.parts", stage)
            yield from _documents(f"{key}.replay", stage.replay)
        if not isinstance(stage, ClassifierStage) and stage.blimp:
            yield _finding(_DATA, partial(_minimal_pairs, f"{key}.blimp", stage.blimp, job.seed))
    yield find_model(job.model)


def _labelled_texts(stage: ClassifierStage) -> str:
    from pipelines.training.labelled_texts import read_splits  # it imports torch, which takes seconds

    data = read_splits(stage.data)
    train, dev, test = (f"{len(part.texts):,}" for part in (data.train, data.dev, data.test))
    return f"stages.0.data: {train} texts to train on, {dev} to choose thresholds on, {test} to test on"


def _completions(key: str, stage: SftStage) -> Iterator[Finding]:
    for name, part in stage.parts.items():
        yield _finding(_DATA, partial(_rows, key, name, stage.model_copy(update={"parts": {name: part}})))


def _rows(key: str, name: str, stage: SftStage) -> str:
    source = Completions(key, stage, _MAX_ROWS)
    rows = sum(1 for _ in source)
    unreadable = f"; {source.unreadable:,} cannot be read: {source.first_unreadable}" if source.unreadable else ""
    more = " or more" if rows + source.unreadable == _MAX_ROWS else ""
    return f"{key}.{name}: {plural(rows, 'row')}{more}{unreadable}"


def _minimal_pairs(key: str, section: GrammarGuard, seed: int) -> str:
    from pipelines.inputs.minimal_pairs import sample_pairs

    return f"{key}: {plural(len(sample_pairs(key, section, seed)), 'minimal pair')}"


def _evaluate(job: EvaluateJob) -> Iterator[Finding]:
    from pipelines.evaluation.evaluate import EVALUATIONS  # it imports torch, which takes seconds

    def look(check: Callable[[EvaluateJob], None]) -> str:
        check(job)
        return "what it is measured with can be read"

    for evaluation in EVALUATIONS:
        if evaluation.name in job.evaluations:
            yield _finding(evaluation.name, partial(look, evaluation.check))
    for model in job.models:
        yield find_model(model.model())


_CHECKS: dict[str, Callable[[Any], Iterator[Finding]]] = {
    "label": _label,
    "compose": _compose,
    "train": _train,
    "evaluate": _evaluate,
}

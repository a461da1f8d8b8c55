"""Labels ranges of raw text with Ray Data, in two steps: tasks read sentences, and actors score them."""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from pipelines.labelling.contexts import CONTEXT_SCHEMA, ContextManifest
from pipelines.labelling.ranges import LineRange, lines_of
from pipelines.labelling.sentences import Segmenter
from schemas.emotions import EMOTIONS
from schemas.errors import JobError, KindlingError, StoppedError
from schemas.label import LabelCluster, LabelJob
from schemas.text import shorten
from services.models.classifier import load_classifier, with_absolute_path
from services.observability import logs

_NEUTRAL = EMOTIONS.index("neutral")
# Steps send each other one pickled message, as a row of one column, so that Ray Data converts nothing.
_COLUMN = "message"
_READERS_PER_ACTOR = 2

Sentence = tuple[str, int, int]
"""text, offset of its line in bytes, number of the sentence in its line"""


def label_ranges(
    ranges: Sequence[LineRange], job: LabelJob, fingerprint: str
) -> Iterator[tuple[ContextManifest, pa.Table]]:
    """Yields manifest and rows of each range as soon as it is labelled, in no fixed order.

    Must be used inside `services.cluster.connect_to_ray`.

    Raises:
        KindlingError: a worker failed, with the error of the worker where it is one of Kindling's.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    if not logs.dependencies_are_logged():
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    gpus, cpus = job.cluster.gpus_per_actor, _cores(job.cluster)
    # An actor may have another working directory than this process.
    placed = job.model_copy(update={"classifier": with_absolute_path(job.classifier)})
    messages = ray.data.from_items(
        [{_COLUMN: pickle.dumps(line_range)} for line_range in ranges], override_num_blocks=len(ranges)
    )
    # Tasks that read ask for no core: reading is little work, and the actors may have asked for all cores.
    read = messages.map(
        _step(lambda line_range: read_range(line_range, job)), num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=_READERS_PER_ACTOR * job.cluster.actors),
    )  # fmt: skip
    done = read.map_batches(
        _Scorer, fn_constructor_args=[placed, fingerprint, cpus], batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=job.cluster.actors),
        **({"num_gpus": gpus} if gpus else {"num_cpus": cpus}),
    )  # fmt: skip
    try:
        for row in done.iter_rows():
            yield pickle.loads(row[_COLUMN])
    except ray.exceptions.RayError as error:
        raise _worker_error(error) from None


def _cores(cluster: LabelCluster) -> int:
    """Returns the number of cores for each actor that scores on CPUs.

    Raises:
        JobError: no node has as many cores or GPUs, or all actors together need more than the cluster has.
    """
    cpus_of_nodes, gpus_of_nodes = _per_node("CPU"), _per_node("GPU")
    cpus = cluster.cpus_per_actor or max(min(max(cpus_of_nodes), sum(cpus_of_nodes) // cluster.actors), 1)
    gpus = cluster.gpus_per_actor
    each, nodes, unit = (gpus, gpus_of_nodes, "GPUs") if gpus else (cpus, cpus_of_nodes, "cores")
    if each > max(nodes) or each * cluster.actors > sum(nodes):
        has = f"the cluster has {sum(nodes):g}, {max(nodes):g} on one node"
        cause = f"{cluster.actors} actors of {each:g} {unit} do not fit; {has}"
        raise JobError("cluster.actors", cluster.actors, cause, f"ask for fewer actors, or fewer {unit} for each")
    return cpus


def _per_node(resource: str) -> list[int]:
    return [int(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]]


def _worker_error(error: BaseException) -> KindlingError:
    """Returns the error of a worker, which Ray wraps in errors of its own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, KindlingError):
            return inner
        error, inner = inner, getattr(inner, "cause", None) or inner.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    remedy = "committed shards are kept; see the log in Ray's session folder, then run the same command"
    return StoppedError("label", None, f"a worker failed: {shorten(lines[-1])}", remedy)


def _step(work: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda row: {_COLUMN: pickle.dumps(work(pickle.loads(row[_COLUMN])))}


def read_range(line_range: LineRange, job: LabelJob) -> tuple[LineRange, int, list[Sentence], Counter[str]]:
    """Returns the range, the number of its lines, its sentences, and the number of dropped ones by rule."""
    segmenter, lines = Segmenter(job.segmentation, job.input.encoding), 0
    sentences: list[Sentence] = []
    for offset, line in lines_of(line_range):
        lines += 1
        sentences += [(text, offset, number) for number, text in enumerate(segmenter.sentences(line))]
    return line_range, lines, sentences, segmenter.dropped


class _Scorer:
    """Actor that scores the sentences of one range after the other, and keeps those with a clear emotion."""

    def __init__(self, job: LabelJob, fingerprint: str, cpus: int) -> None:
        if not job.cluster.gpus_per_actor:
            torch.set_num_threads(cpus)
        self._fingerprint = fingerprint
        self._classifier = load_classifier(job.classifier, "cuda" if job.cluster.gpus_per_actor else "cpu")
        thresholds = self._classifier.thresholds
        self._thresholds = thresholds if job.threshold == "tuned" else np.full_like(thresholds, job.threshold)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        (message,) = batch[_COLUMN]
        line_range, lines, sentences, dropped = pickle.loads(message)
        scores = self._classifier.score([text for text, _, _ in sentences])
        contexts, neutral, unsure = keep(sentences, line_range.source, scores, self._thresholds)
        emotions = Counter(label for labels in contexts["emotions"].to_pylist() for label in labels)
        manifest = ContextManifest(
            fingerprint=self._fingerprint, shard=line_range.shard, source=line_range.source, start=line_range.start,
            end=line_range.end, lines=lines, sentences=len(sentences), kept=contexts.num_rows, dropped=dict(dropped),
            neutral=neutral, unsure=unsure, emotions=dict(emotions),
            finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )  # fmt: skip
        return {_COLUMN: [pickle.dumps((manifest, contexts))]}


def keep(
    sentences: Sequence[Sentence], source: str, scores: np.ndarray, thresholds: np.ndarray
) -> tuple[pa.Table, int, int]:
    """Keeps sentences whose best label is not neutral and reaches its threshold, with every label that reaches its own.

    Args:
        sentences: the sentences of a range.
        source: the raw file, as run.json names it.
        scores: score of each sentence and label, shape (sentences, 28).
        thresholds: threshold of each label, shape (28,).

    Returns:
        contexts: rows of CONTEXT_SCHEMA.
        neutral: number of sentences whose best label is neutral.
        unsure: number of sentences whose best label has a score below its threshold.
    """
    best = scores.argmax(1) if len(scores) else np.zeros(0, dtype=np.int64)
    neutral = best == _NEUTRAL
    sure = scores[np.arange(len(scores)), best] >= thresholds[best]
    rows = []
    for i in np.flatnonzero(sure & ~neutral):
        text, offset, number = sentences[i]
        labels = [k for k in np.argsort(-scores[i], kind="stable") if scores[i, k] >= thresholds[k] and k != _NEUTRAL]
        rows.append(
            {
                "context": text,
                "emotions": [EMOTIONS[k] for k in labels],
                "scores": [float(scores[i, k]) for k in labels],
                "source": source,
                "offset": offset,
                "sentence": number,
            }
        )
    return pa.Table.from_pylist(rows, CONTEXT_SCHEMA), int(neutral.sum()), int((~neutral & ~sure).sum())

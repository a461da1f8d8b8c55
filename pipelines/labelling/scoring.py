"""Ray Data's two steps: a range of lines to sentences, and sentences to the contexts that are kept."""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
# A message between the steps: one row of one column, so that Ray Data has nothing to convert.
_COLUMN = "message"
_READERS_PER_ACTOR = 2

Sentence = tuple[str, int, int]
"""text, offset of its line, number in its line"""


def labelled(
    ranges: Sequence[LineRange], job: LabelJob, fingerprint: str
) -> Iterator[tuple[ContextManifest, pa.Table]]:
    """The shards of these ranges as they are done, in no order.

    Must be used inside `services.cluster.connect_to_ray`.

    Raises:
        KindlingError: a worker failed; the shards that are not done stay undone.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    if not logs.dependencies_are_logged():
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    gpus, cpus = job.cluster.gpus_per_actor, _cores(job.cluster)
    # On a joined cluster an actor's working directory is another.
    placed = job.model_copy(update={"classifier": with_absolute_path(job.classifier)})
    messages = ray.data.from_items([{_COLUMN: pickle.dumps(each)} for each in ranges], override_num_blocks=len(ranges))
    # Reading lines is little work, and an actor may want every core there is.
    read = messages.map(
        _step(lambda each: read_range(each, job)), num_cpus=0,
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
        raise _told(error) from None


def _cores(cluster: LabelCluster) -> int:
    """Of each actor that scores on CPUs.

    Raises:
        JobError: no node has so many, or all actors together want more than there are.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    largest, total = max(nodes), sum(nodes)
    cpus = cluster.cpus_per_actor or max(min(largest, total // cluster.actors), 1)
    if not cluster.gpus_per_actor and (cpus > largest or cpus * cluster.actors > total):
        cause = f"{cluster.actors} actors of {cpus} cores do not fit; the cluster has {total}, {largest} on one node"
        raise JobError("cluster.actors", cluster.actors, cause, "ask for fewer actors, or fewer cores of each")
    return cpus


def _told(error: BaseException) -> KindlingError:
    """What failed in a worker, out of what Ray wraps round it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KindlingError):
            return seen
        error, seen = seen, getattr(seen, "cause", None) or seen.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    remedy = "what is committed is kept; see the log in Ray's session folder, then run the same command"
    return StoppedError("label", None, f"a worker failed: {shorten(lines[-1])}", remedy)


def _step(work: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda row: {_COLUMN: pickle.dumps(work(pickle.loads(row[_COLUMN])))}


def read_range(each: LineRange, job: LabelJob) -> tuple[LineRange, int, list[Sentence], Counter[str]]:
    """The range, the number of its lines, its sentences, and what was dropped by which rule."""
    segmenter, lines, found = Segmenter(job.segmentation, job.input.encoding), 0, []
    for offset, line in lines_of(each):
        lines += 1
        found += [(text, offset, number) for number, text in enumerate(segmenter.sentences(line))]
    return each, lines, found, segmenter.dropped


class _Scorer:
    """The actor."""

    def __init__(self, job: LabelJob, fingerprint: str, cpus: int) -> None:
        if not job.cluster.gpus_per_actor:
            torch.set_num_threads(cpus)
        self._fingerprint = fingerprint
        self._classifier = load_classifier(job.classifier, "cuda" if job.cluster.gpus_per_actor else "cpu")
        thresholds = self._classifier.thresholds
        self._thresholds = thresholds if job.threshold == "tuned" else np.full_like(thresholds, job.threshold)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        (message,) = batch[_COLUMN]
        each, lines, sentences, dropped = pickle.loads(message)
        scores = self._classifier.score([text for text, _, _ in sentences])
        contexts, neutral, unsure = keep(sentences, each.source, scores, self._thresholds)
        emotions = Counter(label for labels in contexts["emotions"].to_pylist() for label in labels)
        manifest = ContextManifest(
            fingerprint=self._fingerprint, shard=each.shard, source=each.source, start=each.start, end=each.end,
            lines=lines, sentences=len(sentences), kept=contexts.num_rows, dropped=dict(dropped),
            neutral=neutral, unsure=unsure, emotions=dict(emotions),
        )  # fmt: skip
        return {_COLUMN: [pickle.dumps((manifest, contexts))]}


def keep(
    sentences: Sequence[Sentence], source: str, scores: np.ndarray, thresholds: np.ndarray
) -> tuple[pa.Table, int, int]:
    """The sentences whose best label is not neutral and reaches its threshold, with every label that does.

    Args:
        scores: shape (sentences, 28).
        thresholds: shape (28,).

    Returns:
        the contexts, of CONTEXT_SCHEMA; sentences whose best label is neutral; those whose best scores too little.
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

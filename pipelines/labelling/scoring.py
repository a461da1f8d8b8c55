"""Ray Data's two steps: a range of lines to sentences, and sentences to the contexts that are kept."""

import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipelines.labelling.contexts import CONTEXT_SCHEMA, ContextManifest
from pipelines.labelling.ranges import LineRange, lines_of
from pipelines.labelling.sentences import Segmenter
from schemas.emotions import EMOTIONS
from schemas.label import LabelJob

_NEUTRAL = EMOTIONS.index("neutral")
# A message between the steps: one row of one column, so that Ray Data has nothing to convert.
_COLUMN = "message"

Sentence = tuple[str, int, int]
"""text, offset of its line, number in its line"""


def labelled(
    ranges: Sequence[LineRange], job: LabelJob, fingerprint: str
) -> Iterator[tuple[ContextManifest, pa.Table]]:
    """The shards of these ranges as they are done, in no order.

    Must be used inside `services.cluster.connected`.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus, cpus = job.cluster.gpus_per_actor, job.cluster.cpus_per_actor or _share_of_cores(job.cluster.actors)
    messages = ray.data.from_items([{_COLUMN: pickle.dumps(each)} for each in ranges], override_num_blocks=len(ranges))
    done = messages.map(_step(lambda each: read_range(each, job))).map_batches(
        _Scorer, fn_constructor_args=[job, fingerprint, cpus], batch_size=1, concurrency=job.cluster.actors,
        **({"num_gpus": gpus} if gpus else {"num_cpus": cpus}),
    )  # fmt: skip
    for row in done.iter_rows():
        yield pickle.loads(row[_COLUMN])


def _share_of_cores(actors: int) -> int:
    """Of each actor: an equal share of the cluster's cores, less the one on which lines are read."""
    return max(int((ray.cluster_resources()["CPU"] - 1) // actors), 1)


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
        import torch

        from services.classifier import load_classifier

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

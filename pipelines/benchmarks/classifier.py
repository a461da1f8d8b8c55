"""`kindling bench classifier`: the shipped emotion classifier, what its trainer can do, and how fast texts are scored.

shipped      macro-F1 of the embedded classifier on GoEmotions' test set
again        its training again, and the files that came out other than those that ship
fine_tuned   the same with the encoder trained too
distilled    trained on most of a table that another classifier labelled, judged on the rest of it
stories      how often the emotion that a story was asked for is found in it, by how its sentences are pooled
throughput   sentences/s beside the plain `transformers` pipeline at its best batch size, same model, same machine
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from pipelines.benchmarks.report import Goal, conclude, ratio
from pipelines.training.labelled_texts import read_splits
from pipelines.training.train import train
from schemas.emotions import EMOTIONS
from schemas.job import Classifier
from schemas.train import ClassifierStage, LabelledTexts, TrainJob
from services.models.classifier import EmotionClassifier, load_classifier
from services.models.document_scores import POOLINGS, score_documents
from services.models.embedded import embedded_encoder
from services.models.emotion_head import HEAD_FILES, SHIPPED_HEAD
from trainers.thresholds import f1_by_label

_FINE_TUNING = {"encoder": "trained", "epochs": 1, "batch_size": 32, "encoder_learning_rate": 1e-4}
_BATCH_SIZES = [1, 8, 32, 128]
_MAX_TOKENS = 128

_console = Console(stderr=True)


def measure(data: str, stories: int, sentences: int, rounds: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with goemotions/, babylm_contexts.parquet and mistral_stories.parquet.
        stories: that are scored.
        sentences: of each run of the throughput.
        rounds: of the throughput.
    """
    folder = Path(data)
    goemotions = LabelledTexts(
        **{name: str(folder / "goemotions" / f"{name}.tsv") for name in ("train", "dev", "test")}
    )
    contexts = LabelledTexts(
        train=str(folder / "babylm_contexts.parquet"), columns={"text": "context"}, dev=0.1, test=0.2
    )
    shipped = load_classifier(Classifier())
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
        samples = {
            "shipped": _shipped(shipped, goemotions),
            "again": _again(goemotions, Path(scratch) / "again"),
            "fine_tuned": _trained(goemotions, Path(scratch) / "fine-tuned", **_FINE_TUNING),
            "distilled": _trained(contexts, Path(scratch) / "distilled"),
            "stories": _stories(shipped, folder, stories),
            "throughput": _throughput(folder, Path(scratch) / "plain", sentences, rounds),
        }
    settings = {"stories": stories, "sentences": sentences, "rounds": rounds, "fine_tuning": _FINE_TUNING}
    return conclude("classifier", settings, samples, goals_of(samples))


def goals_of(samples: dict[str, Any]) -> list[Goal]:
    """What the samples come to, beside what they should."""
    speed = samples["throughput"]
    best = max(speed["pipeline"], key=lambda size: statistics.median(speed["pipeline"][size]))
    beside = ratio(speed["kindling"], speed["pipeline"][best]).median
    return [
        Goal("shipped: macro-F1 on GoEmotions' test set", samples["shipped"]["macro_f1"], 0.42),
        Goal("again: files that differ", len(samples["again"]), 0, at_least=False),
        Goal("fine-tuned: macro-F1", samples["fine_tuned"]["macro_f1"], 0.48),
        Goal("distilled: best-scored label is one of the table's", samples["distilled"]["top_label_share"], 0.60),
        Goal(f"throughput: kindling / pipeline with batches of {best}", beside, 1.5),
        Goal("throughput: sentences with equal labels", speed["equal_labels"], 0.999),
    ]


def _shipped(shipped: EmotionClassifier, goemotions: LabelledTexts) -> dict[str, Any]:
    test = read_splits(goemotions).test
    scores = shipped.score(test.texts)
    f1 = f1_by_label(scores, test.targets, shipped.thresholds)
    top = test.targets[np.arange(len(scores)), scores.argmax(1)]
    return {
        "macro_f1": round(float(f1.mean()), 4),
        "top_label_share": round(float(top.mean()), 4),
        "f1": {emotion: round(float(each), 4) for emotion, each in zip(EMOTIONS, f1, strict=True)},
    }


def _trained(data: LabelledTexts, output: Path, **settings: Any) -> dict[str, Any]:
    began = time.monotonic()
    stage = ClassifierStage(kind="classifier", data=data, **settings)
    report = train(TrainJob(name=output.name, stages=[stage], output={"path": str(output)}))
    _console.print(f"{output.name}: macro-F1 {report.macro_f1:.3f}, {time.monotonic() - began:.0f} s")
    return {**report.as_json(), "seconds": round(time.monotonic() - began, 1)}


def _again(goemotions: LabelledTexts, output: Path) -> list[str]:
    _trained(goemotions, output)
    return [name for name in HEAD_FILES if (output / name).read_bytes() != (SHIPPED_HEAD / name).read_bytes()]


def _stories(shipped: EmotionClassifier, folder: Path, stories: int) -> dict[str, Any]:
    table = pq.read_table(folder / "mistral_stories.parquet", columns=["story", "emotions"])
    every = max(table.num_rows // stories, 1)
    rows = table.take(list(range(0, table.num_rows, every))[:stories]).to_pylist()
    texts = [row["story"] or "" for row in rows]
    asked = np.array([[emotion in (row["emotions"] or []) for emotion in EMOTIONS] for row in rows])
    found = {"beginning": shipped.score(texts)}
    found |= {pooling: score_documents(shipped, texts, pooling) for pooling in POOLINGS}
    shares = {name: _found_shares(scores, asked) for name, scores in found.items()}
    table = Table("pooling", "asked emotion scores best", "but for neutral")
    for name, each in shares.items():
        table.add_row(name, f"{each['best']:.1%}", f"{each['best_but_neutral']:.1%}")
    Console(width=120).print(table)
    return {"rows": len(rows), **shares}


def _found_shares(scores: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    rows = np.arange(len(scores))
    without = scores.copy()
    without[:, EMOTIONS.index("neutral")] = -1
    return {
        "best": round(float(asked[rows, scores.argmax(1)].mean()), 4),
        "best_but_neutral": round(float(asked[rows, without.argmax(1)].mean()), 4),
    }


def _throughput(folder: Path, plain: Path, sentences: int, rounds: int) -> dict[str, Any]:
    texts = pq.read_table(folder / "babylm_contexts.parquet", columns=["context"])["context"].to_pylist()
    texts = texts[:: max(len(texts) // sentences, 1)][:sentences]
    _save_plain(plain)
    ours = load_classifier(Classifier(id=str(plain), max_tokens=_MAX_TOKENS))
    model = AutoModelForSequenceClassification.from_pretrained(plain, dtype=torch.float32)
    theirs = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(plain), device="cpu",
        top_k=None, truncation=True, max_length=_MAX_TOKENS,
    )  # fmt: skip
    rates: dict[str, list[float]] = {"kindling": []}
    speed: dict[str, list[float]] = {str(size): [] for size in _BATCH_SIZES}
    for round_ in range(rounds):
        for size in _BATCH_SIZES if round_ % 2 == 0 else _BATCH_SIZES[::-1]:
            began = time.monotonic()
            listed = theirs(texts, batch_size=size)
            speed[str(size)].append(len(texts) / (time.monotonic() - began))
        began = time.monotonic()
        scores = ours.score(texts)
        rates["kindling"].append(len(texts) / (time.monotonic() - began))
    their_scores = np.array([_in_order(each) for each in listed])
    equal = ((scores >= 0.5) == (their_scores >= 0.5)).all(1) & (scores.argmax(1) == their_scores.argmax(1))
    return {**rates, "pipeline": speed, "equal_labels": round(float(equal.mean()), 4)}


def _in_order(scores: list[dict[str, Any]]) -> list[float]:
    of = {each["label"]: each["score"] for each in scores}
    return [of[emotion] for emotion in EMOTIONS]


def _save_plain(folder: Path) -> None:
    """The embedded encoder as a plain sequence classifier, its classification head drawn at random: as fast as any."""
    torch.manual_seed(0)
    names = dict(enumerate(EMOTIONS))
    model = AutoModelForSequenceClassification.from_pretrained(
        embedded_encoder(), dtype=torch.float32, num_labels=len(EMOTIONS), id2label=names,
        label2id={name: number for number, name in names.items()}, problem_type="multi_label_classification",
    )  # fmt: skip
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded_encoder()).save_pretrained(folder)

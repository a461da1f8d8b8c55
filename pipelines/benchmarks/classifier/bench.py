"""`kindling bench classifier`: the shipped emotion classifiers, their trainer, and how fast texts are scored.

agreement    kappa of the shipped classifiers with two readings of 200 texts; needs no data, and the rest does
shipped      macro-F1 of each shipped classifier on GoEmotions' test set
again        their training again: files that differ from the shipped ones
fine_tuned   its training with the encoder trained too
distilled    a training on a table that another classifier labelled, tested on a part of the table
stories      share of stories in which the emotion that they were asked for is found, by the pooling of sentences
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

from pipelines.benchmarks.classifier.agreement import DEFAULT, best_way, measure_agreement
from pipelines.benchmarks.report import Goal, alternate, conclude, ratio
from pipelines.training.labelled_texts import read_splits
from pipelines.training.train import train
from schemas.emotions import EMOTIONS
from schemas.job import Classifier
from schemas.train import ClassifierStage, LabelledTexts, TrainJob, TrainOutput
from services.models.classifier import EmotionClassifier, load_classifier
from services.models.document_scores import POOLINGS, score_documents
from services.models.embedded import embedded_encoder
from services.models.emotion_head import HEAD_FILES, SHIPPED_HEAD, SHIPPED_WORDS
from trainers.thresholds import f1_by_label

# Shipped classifiers, with the settings of their training.
_SHIPPED: dict[str, tuple[Path, dict[str, Any]]] = {
    "embedded": (SHIPPED_HEAD, {}),
    "embedded-words": (SHIPPED_WORDS, {"encoder": "words", "epochs": 6, "learning_rate": 0.03}),
}
_MIN_F1 = {"embedded": 0.42, "embedded-words": 0.38}
_MIN_KAPPA = {"embedded": 0.6, "embedded-words": 0.6}
_FINE_TUNING: dict[str, Any] = {"encoder": "trained", "epochs": 1, "batch_size": 32, "encoder_learning_rate": 1e-4}
_BATCH_SIZES = [1, 8, 32, 128]
_MAX_TOKENS = 128

_console = Console(stderr=True)


def measure(data: str | None, classifier: list[str], stories: int, sentences: int, rounds: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with goemotions/, babylm_contexts.parquet and mistral_stories.parquet; None: only the agreement.
        classifier: `classifier.id` of further classifiers whose agreement is measured.
        stories: number of stories that are scored.
        sentences: number of sentences in each run of the throughput.
        rounds: number of rounds of the throughput.
    """
    samples: dict[str, Any] = {"agreement": measure_agreement([*_SHIPPED, *classifier])}
    settings: dict[str, Any] = {"classifiers": [*_SHIPPED, *classifier]}
    if data:
        samples |= _measure_on_data(Path(data), stories, sentences, rounds)
        settings |= {"stories": stories, "sentences": sentences, "rounds": rounds, "fine_tuning": _FINE_TUNING}
    return conclude("classifier", settings, samples, goals_of(samples))


def _measure_on_data(folder: Path, stories: int, sentences: int, rounds: int) -> dict[str, Any]:
    """Measures all that needs data."""
    goemotions = LabelledTexts(
        **{name: str(folder / "goemotions" / f"{name}.tsv") for name in ("train", "dev", "test")},
        quotes=False,  # as the shipped heads were trained
    )
    contexts = LabelledTexts(
        train=str(folder / "babylm_contexts.parquet"), columns={"text": "context"}, dev=0.1, test=0.2
    )
    shipped = {name: load_classifier(Classifier(id=name)) for name in _SHIPPED}
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
        return {
            "shipped": {name: _test_shipped(classifier, goemotions) for name, classifier in shipped.items()},
            "again": {name: _train_again(name, goemotions, Path(scratch) / name) for name in _SHIPPED},
            "fine_tuned": _train(goemotions, Path(scratch) / "fine-tuned", **_FINE_TUNING),
            "distilled": _train(contexts, Path(scratch) / "distilled"),
            "stories": _score_stories(shipped["embedded"], folder, stories),
            "throughput": _throughput(folder, Path(scratch) / "plain", sentences, rounds),
        }


def goals_of(samples: dict[str, Any]) -> list[Goal]:
    """Compares the samples with the goals."""
    measured = samples["agreement"]
    chosen = measured["embedded"]
    goals = [
        Goal("embedded: other ways that choose better", float(best_way(chosen) != DEFAULT), 0, at_least=False),
        *(
            Goal(f"{name}: kappa of groups", measured[name][DEFAULT]["report"]["group"]["kappa"], goal)
            for name, goal in _MIN_KAPPA.items()
        ),
    ]
    if "throughput" not in samples:
        return goals
    speed = samples["throughput"]
    best = max(speed["pipeline"], key=lambda size: statistics.median(speed["pipeline"][size]))
    speed_ratio = ratio(speed["kindling"], speed["pipeline"][best]).median
    return [
        *goals,
        *(
            Goal(f"{name}: macro-F1 on GoEmotions' test set", samples["shipped"][name]["macro_f1"], goal)
            for name, goal in _MIN_F1.items()
        ),
        Goal("again: files that differ", sum(map(len, samples["again"].values())), 0, at_least=False),
        Goal("fine-tuned: macro-F1", samples["fine_tuned"]["macro_f1"], 0.48),
        Goal("distilled: best-scored label is one of the table's", samples["distilled"]["top_label_share"], 0.60),
        Goal(f"throughput: kindling / pipeline with batches of {best}", speed_ratio, 1.5),
        Goal("throughput: sentences with equal labels", speed["equal_labels"], 0.999),
    ]


def _test_shipped(shipped: EmotionClassifier, goemotions: LabelledTexts) -> dict[str, Any]:
    test = read_splits(goemotions).test
    scores = shipped.score(test.texts)
    f1 = f1_by_label(scores, test.targets, shipped.thresholds)
    is_top_right = test.targets[np.arange(len(scores)), scores.argmax(1)]
    return {
        "macro_f1": round(float(f1.mean()), 4),
        "top_label_share": round(float(is_top_right.mean()), 4),
        "f1": {emotion: round(float(emotion_f1), 4) for emotion, emotion_f1 in zip(EMOTIONS, f1, strict=True)},
    }


def _train(data: LabelledTexts, output: Path, **settings: Any) -> dict[str, Any]:
    """Trains a classifier into a folder; returns its report with the seconds of the training."""
    began = time.monotonic()
    stage = ClassifierStage(kind="classifier", data=data, **settings)
    report = train(TrainJob(name=output.name, stages=[stage], output=TrainOutput(path=str(output)))).as_json()
    seconds = time.monotonic() - began
    _console.print(f"{output.name}: macro-F1 {report['macro_f1']:.3f}, {seconds:.0f} s")
    return {**report, "seconds": round(seconds, 1)}


def _train_again(name: str, goemotions: LabelledTexts, output: Path) -> list[str]:
    """Repeats the training of a shipped classifier; returns the names of files with another content."""
    folder, settings = _SHIPPED[name]
    _train(goemotions, output, **settings)
    return [file for file in HEAD_FILES if (output / file).read_bytes() != (folder / file).read_bytes()]


def _score_stories(shipped: EmotionClassifier, folder: Path, stories: int) -> dict[str, Any]:
    """Scores stories with each pooling; returns how often an emotion that a story was asked for scores best."""
    table = pq.read_table(folder / "mistral_stories.parquet", columns=["story", "emotions"])
    step = max(table.num_rows // stories, 1)
    rows = table.take(list(range(0, table.num_rows, step))[:stories]).to_pylist()
    texts = [row["story"] or "" for row in rows]
    asked = np.array([[emotion in (row["emotions"] or []) for emotion in EMOTIONS] for row in rows])
    scores = {"beginning": shipped.score(texts)}
    scores |= {pooling: score_documents(shipped, texts, pooling) for pooling in POOLINGS}
    shares = {name: _asked_shares(pooled, asked) for name, pooled in scores.items()}
    shown = Table("pooling", "asked emotion scores best", "without neutral")
    for name, share in shares.items():
        shown.add_row(name, f"{share['best']:.1%}", f"{share['best_but_neutral']:.1%}")
    Console(width=120).print(shown)
    return {"rows": len(rows), **shares}


def _asked_shares(scores: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Returns the share of texts whose best score is an asked emotion, with neutral and without.

    Args:
        scores: scores of each text, shape (texts, 28).
        asked: whether the text was asked for the emotion, same shape.
    """
    rows = np.arange(len(scores))
    without_neutral = scores.copy()
    without_neutral[:, EMOTIONS.index("neutral")] = -1
    return {
        "best": round(float(asked[rows, scores.argmax(1)].mean()), 4),
        "best_but_neutral": round(float(asked[rows, without_neutral.argmax(1)].mean()), 4),
    }


def _throughput(folder: Path, checkpoint: Path, sentences: int, rounds: int) -> dict[str, Any]:
    """Measures sentences/s of Kindling and of the transformers pipeline on one model, and compares their labels.

    Args:
        checkpoint: folder to write the model to.
    """
    texts = pq.read_table(folder / "babylm_contexts.parquet", columns=["context"])["context"].to_pylist()
    texts = texts[:: max(len(texts) // sentences, 1)][:sentences]
    _write_checkpoint(checkpoint)
    kindling = load_classifier(Classifier(id=str(checkpoint), max_tokens=_MAX_TOKENS))
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    hf_pipeline = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(checkpoint), device="cpu",
        top_k=None, truncation=True, max_length=_MAX_TOKENS,
    )  # fmt: skip
    rates: list[float] = []
    pipeline_rates: dict[str, list[float]] = {str(size): [] for size in _BATCH_SIZES}
    for round_ in range(rounds):
        for size in alternate(_BATCH_SIZES, round_):
            began = time.monotonic()
            labels = hf_pipeline(texts, batch_size=size)
            pipeline_rates[str(size)].append(len(texts) / (time.monotonic() - began))
        began = time.monotonic()
        scores = kindling.score(texts)
        rates.append(len(texts) / (time.monotonic() - began))
    pipeline_scores = np.array([_in_order(text_labels) for text_labels in labels])
    equal_top = scores.argmax(1) == pipeline_scores.argmax(1)
    equal = ((scores >= 0.5) == (pipeline_scores >= 0.5)).all(1) & equal_top
    return {"kindling": rates, "pipeline": pipeline_rates, "equal_labels": round(float(equal.mean()), 4)}


def _in_order(labels: list[dict[str, Any]]) -> list[float]:
    """Returns the scores of one text in the order of EMOTIONS; the pipeline gives the best first."""
    score_of = {label["label"]: label["score"] for label in labels}
    return [score_of[emotion] for emotion in EMOTIONS]


def _write_checkpoint(folder: Path) -> None:
    """Writes the embedded encoder as a plain sequence classifier with a random head, which is as fast as any other."""
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
